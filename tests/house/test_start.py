"""What a start costs: the command line loads what its command needs and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("textual", "rich", "boto3", "botocore", "asyncssh", "torch", "obstore", "pydantic", "yaml", "blake3")


def loaded_by(code: str) -> list[str]:
    """Top-level modules in ``sys.modules`` after ``code`` ran in a fresh Python."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_command_line_loads_no_heavy_library() -> None:
    assert not set(loaded_by("import vl_tui.cli; vl_tui.cli.build_parser()")) & set(HEAVY)


def test_reading_the_files_of_a_person_loads_neither_screen_nor_cloud() -> None:
    assert not set(loaded_by("import vl_tui.config")) & (set(HEAVY) - {"pydantic", "yaml"})


def test_the_protocol_loads_the_standard_library_only() -> None:
    found = set(loaded_by("import vl_agent.protocol"))
    assert not found & {*HEAVY, "vl_tui", "asyncio", "socket"}
