"""Secrets reach the training's environment, and nothing else: no argument list, no journal, no file, no store key."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from vl_agent.store import Store

from tests.agent.box import Box
from tests.agent.protected import until

SECRET = "hunter2-is-no-password"
STORE_KEY = "a-store-key-of-the-fleet"

SCRIPT = """
import hashlib, os, pathlib, sys, time
pathlib.Path("has").write_text(hashlib.sha256(os.environ["HF_TOKEN"].encode()).hexdigest())
while not pathlib.Path("go").exists():
    time.sleep(0.02)
sys.exit("bad token " + os.environ["HF_TOKEN"])
"""


def argument_lists() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().decode("utf-8", "replace")
        except OSError:
            continue


def holds(folder: Path, but: str) -> list[str]:
    """Files below ``folder`` that hold a secret; ``but``: the training's own output, which is its author's."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != but]
    assert files
    return [str(path) for path in files if any(word.encode() in path.read_bytes() for word in (SECRET, STORE_KEY))]


async def test_secrets_stay_in_memory(box: Callable[..., Box], store: Store, tmp_path: Path) -> None:
    here = box()
    (tmp_path / "script.py").write_text(SCRIPT)
    await here.submit([sys.executable, str(tmp_path / "script.py")], secrets=("HF_TOKEN",), setup='test -n "$HF_TOKEN"')
    here.supervise(secrets={"HF_TOKEN": SECRET}, store_options={"secret_access_key": STORE_KEY})
    async with here.attach() as at:
        await here.start(at)
        await until(lambda: (here.work / "has").exists(), "the training has it")
        assert not [words for words in argument_lists() if SECRET in words or STORE_KEY in words]
        assert holds(here.home, but="log") == []
        (here.work / "go").touch()
        assert (await at.event("exited")).fields["detail"] == "exit status 1: bad token ***"
        assert "***" in (await at.phase("ended")).detail
    assert holds(here.home, but="log") == []
    assert holds(tmp_path / "store", but="0000000000000000.zst") == []
    launch = here.launch_folder
    assert stat.S_IMODE(launch.stat().st_mode) & 0o077 == 0, "whatever lies in it, nobody else comes in"
    assert os.environ.get("HF_TOKEN") is None
