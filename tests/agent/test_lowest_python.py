"""The agent's code under its lowest Python: it compiles, and what enters a training process needs nothing installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

AGENT = Path(__file__).resolve().parents[2] / "agent"

COMPILES = """
import pathlib, sys
for path in pathlib.Path(sys.argv[1]).rglob("*.py"):
    compile(path.read_bytes(), str(path), "exec")
"""
STDLIB_ONLY = (
    "control", "protocol", "paths", "processes", "training", "told", "hide", "reach", "status", "detach", "channel",
    "notices", "notices.aws",
)  # fmt: skip


def lowest_python() -> str:
    """An interpreter of 3.10, or the test is skipped."""
    wanted = [shutil.which("python3.10"), os.environ.get("VL_PYTHON_3_10")]
    wanted += [str(path) for path in Path.home().glob(".pyenv/versions/3.10*/bin/python3.10")]
    for name in wanted:
        if name and subprocess.run([name, "-c", "pass"], capture_output=True).returncode == 0:
            return name
    pytest.skip("no Python 3.10 on this machine: put one on PATH or name it in VL_PYTHON_3_10")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([lowest_python(), "-I", *words], capture_output=True, text=True, timeout=60)


def test_all_of_it_compiles() -> None:
    done = run("-c", COMPILES, str(AGENT / "vl_agent"))
    assert done.returncode == 0, done.stderr


def test_what_needs_nothing_installed_imports() -> None:
    imports = "; ".join(f"import vl_agent.{name}" for name in STDLIB_ONLY)
    done = run("-W", "error", "-c", f"import sys; sys.path.insert(0, {str(AGENT)!r}); {imports}")
    assert done.returncode == 0, done.stderr


def test_records_are_read_alike() -> None:
    """Types are looked up in annotations at run time: the one thing that differs between Pythons."""
    code = (
        "from vl_agent.protocol import *\n"
        "head = Head(1, 't', 0, 0, 'running', Kept(3, 1, 'm'), (Kept(3, 1, 'm', True),), 2, 'n')\n"
        "assert decode(Head, encode(head)) == head\n"
        "spec = RunSpec('a', 'b', 'c', CheckpointPolicy('d', 1.5), env={'A': 'b'}, secrets=('X',))\n"
        "assert decode(RunSpec, encode(spec)) == spec\n"
        "print(encode(head).decode(), encode(spec).decode())\n"
    )
    lowest = run("-c", f"import sys; sys.path.insert(0, {str(AGENT)!r})\n{code}")
    here = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert lowest.returncode == 0, lowest.stderr
    assert lowest.stdout == here.stdout
