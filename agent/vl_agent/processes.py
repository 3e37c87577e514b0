"""Processes as /proc shows them: who belongs to a training, and how all of them are ended.

A training is known by its session (its shell is the leader) and by a marker in its environment, which its children
inherit also when they make sessions of their own (as torchrun's workers do).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from vl_agent import writer

PROC = Path("/proc")
MARKER = "VL_TRAINING"
"""Environment variable whose value is a training's own."""
APART = "VL_APART"
"""Environment variable of what the agent itself runs beside a training: it is none of the training's."""
own: set[int] = set()
"""Pids of what the agent itself runs beside a training: who started them waits for them."""

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    session: int
    start: int
    """Clock ticks from the machine's boot to the process's start: with pid and boot id it names a process for good."""
    zombie: bool


@dataclass(frozen=True)
class Family:
    """All processes of one training."""

    boot: str
    leader: int
    """Pid of the session's leader; 0 when the crash came before it was known."""
    leader_start: int
    marker: str


def boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def look_up(pid: int) -> Process | None:
    """The process with this pid, or None."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in "ZX")


def all_processes() -> Iterator[Process]:
    for name in os.listdir(PROC):
        if name.isdecimal():
            process = look_up(int(name))
            if process is not None:
                yield process


def members(family: Family) -> list[int]:
    """Pids of the family's living processes: its session, whoever carries its marker, and all their descendants (a
    program that sets its own title may overwrite its environment)."""
    if family.boot != boot_id():
        return []
    leader = look_up(family.leader) if family.leader else None
    session = family.leader if leader is not None and leader.start == family.leader_start else -1
    mark = f"{MARKER}={family.marker}".encode()
    living = [process for process in all_processes() if not process.zombie]
    found = {p.pid for p in living if p.session == session or _has_mark(p.pid, mark) or _is_adopted(p, family)}
    children: dict[int, list[int]] = {}
    for process in living:
        children.setdefault(process.parent, []).append(process.pid)
    todo = list(found)
    while todo:
        new = [pid for pid in children.get(todo.pop(), ()) if pid not in found]
        found.update(new)
        todo += new
    return sorted(found)


def _is_adopted(process: Process, family: Family) -> bool:
    """A child of ours that began after the training, and that we did not start: its parents were the training's."""
    if not _adopts or process.parent != os.getpid() or not 0 < family.leader_start <= process.start:
        return False
    return process.pid not in own and not _has_mark(process.pid, f"{APART}=1".encode())


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        return mark in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # it ended, or it is another person's: then it isn't ours
        return False


async def end_family(
    family: Family, *, grace_s: float, writing_s: float = 0.0, patience_s: float = 10.0
) -> list[int]:  # fmt: skip
    """Ask the family to end (SIGTERM), kill what is left after ``grace_s`` seconds; return pids that stayed even so
    (a process in an uninterruptible wait) ``patience_s`` later. ``writing_s``: what a writer gets besides for a save
    that its dead trainer handed over."""
    _signal_all(members(family), signal.SIGTERM)
    if await _gone(family, grace_s):
        return []
    if writing_s:
        left = members(family)
        writers = [pid for pid in left if _has_mark(pid, f"{writer.MARK}=1".encode())]
        _signal_all([pid for pid in left if pid not in writers], signal.SIGKILL)
        if writers and await _gone(family, writing_s):
            return []
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        _signal_all(members(family), signal.SIGKILL)
        if await _gone(family, 0.2):
            return []
    return members(family)


async def _gone(family: Family, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while members(family):
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(0.03)
    return True


def _signal_all(pids: Collection[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


_adopts = False


def adopt_orphans() -> None:
    """Become, where the kernel lets us, the parent of descendants whose parents end: they are then known as ours, and
    reaped (in a container pid 1 may be a script that never does)."""
    global _adopts
    libc = ctypes.CDLL(None, use_errno=True)
    _adopts = bool(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def reap(besides: Collection[int]) -> None:
    """Collect adopted children that have ended; ``besides`` and ``own`` are left to who waits for them."""
    me = os.getpid()
    for process in list(all_processes()):
        if process.parent == me and process.zombie and process.pid not in (*besides, *own):
            try:
                os.waitpid(process.pid, os.WNOHANG)
            except ChildProcessError:
                continue
