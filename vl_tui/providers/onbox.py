"""The lock on an owned box, kept by the box's own Python: the text of this file is sent there, so it imports nothing of
ours.

One folder a host, so that a home shared by several hosts holds a lock for each. It names who holds the box and the
machine's boot: after a restart of the machine nothing of that holder can be running, and the lock is void. Names that
gave the box up are remembered: asked for them later, the box says so, instead of knowing nothing.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES_KEPT = 200
KILL_S = 10.0
_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do one request, alone on this box: ``look``, ``take`` or ``release``."""
    folder = Path(os.environ.get("VL_HOME") or Path.home() / ".vl") / f"box-{os.uname().nodename}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if request["do"] == "take":
            return _take(folder, request["owner"])
        if request["do"] == "release":
            return _release(folder, request["name"])
        return {**_look(folder), "gpus": _gpus(), "gpu_pids": _gpu_pids()}


def _look(folder: Path) -> dict[str, Any]:
    """Who holds the box; a holder from before the machine's restart has let go of it."""
    owner = _read(folder / "lock" / "owner.json")
    past = _read(folder / "past.json") or {}
    if owner and owner["boot_id"] != _boot_id():
        past = _remember(folder, owner, "the machine was started anew")
        shutil.rmtree(folder / "lock")
        owner = None
    return {"owner": owner, "past": past}


def _take(folder: Path, owner: dict[str, Any]) -> dict[str, Any]:
    """Give the box to ``owner``, unless another has it, or this one has given it up already."""
    seen = _look(folder)
    if seen["owner"] or owner["name"] in seen["past"]:
        return seen
    fresh = {**owner, "boot_id": _boot_id(), "at": time.time()}
    (folder / "lock").mkdir(mode=0o700, exist_ok=True)
    _write(folder / "lock" / "owner.json", fresh)
    return {**seen, "owner": fresh}


def _release(folder: Path, name: str) -> dict[str, Any]:
    """End the supervisor and the training of ``name``, then let go of the box. Others' are not touched."""
    seen = _look(folder)
    owner = seen["owner"]
    if not owner or owner["name"] != name:
        return seen
    left = _end(str(owner["tags"].get("vl-run", "")), str(owner["tags"].get("vl-launch", "")))
    if left:
        return {**seen, "left": sorted(left)}
    past = _remember(folder, owner, "terminated as asked")
    shutil.rmtree(folder / "lock")
    return {"owner": None, "past": past}


def _remember(folder: Path, owner: dict[str, Any], cause: str) -> dict[str, Any]:
    past = _read(folder / "past.json") or {}
    past[owner["name"]] = {**owner, "cause": cause}
    kept = dict(list(past.items())[-NAMES_KEPT:])
    _write(folder / "past.json", kept)
    return kept


def _end(run: str, launch: str) -> set[int]:
    """Stop, then kill all processes of a launch until there are none; return those that stay even so."""
    if not _SAFE.fullmatch(run) or not launch.isdecimal():
        return set()
    deadline = time.monotonic() + KILL_S
    stopped: set[int] = set()
    while True:
        found = _processes(run, launch)
        if not found or time.monotonic() > deadline:
            return found
        number = signal.SIGKILL if found <= stopped else signal.SIGSTOP
        for pid in found:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        stopped |= found
        if number == signal.SIGKILL:
            time.sleep(0.02)


def _processes(run: str, launch: str) -> set[int]:
    """The launch's supervisor, by its command line; its training, by the folder in its environment; and all that
    descends from them. This process and its own ancestors are nobody's training."""
    parents, found = {}, set()
    control = f"/runs/{run}/{launch}/control".encode()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            stat = Path("/proc", name, "stat").read_bytes()
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            state, parent = stat[stat.rindex(b")") + 2 :].split(None, 2)[:2]
            parents[int(name)] = int(parent)
            if state in b"ZX":
                continue
            if _supervises(words, run.encode(), launch.encode()) or _has_control(int(name), control):
                found.add(int(name))
        except OSError:  # it ended meanwhile
            continue
    me = os.getpid()
    below = {pid for pid in parents if _ancestors(pid, parents) & found and not _is_dead(pid)}
    return (found | below) - {me} - _ancestors(me, parents)


def _supervises(words: list[bytes], run: bytes, launch: bytes) -> bool:
    pairs = set(itertools.pairwise(words))
    return b"supervise" in words and (b"--run", run) in pairs and (b"--launch", launch) in pairs


def _has_control(pid: int, control: bytes) -> bool:
    try:
        environ = Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
    except OSError:  # another person's
        return False
    return any(entry.startswith(b"VL_CONTROL=") and entry.endswith(control) for entry in environ)


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    while (pid := parents.get(pid, 0)) and pid not in found:
        found.add(pid)
    return found


def _is_dead(pid: int) -> bool:
    try:
        stat = Path("/proc", str(pid), "stat").read_bytes()
    except OSError:
        return True
    return stat[stat.rindex(b")") + 2 :].split(None, 1)[0] in b"ZX"


def _gpus() -> list[str]:
    """Names of the GPUs; empty where there is no driver."""
    return _nvidia("--query-gpu=name")


def _gpu_pids() -> list[str]:
    """Processes that use a GPU now, whoever's."""
    return _nvidia("--query-compute-apps=pid")


def _nvidia(query: str) -> list[str]:
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, timeout=4, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _read(path: Path) -> dict[str, Any] | None:
    """None where there is no such file; an unreadable one is an error that a person must see."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return dict(found)


def _write(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    os.replace(temporary, path)
