"""Every process of a box, found and ended: by descent from its first process, and by the mark in their environment.

Descent finds what cleared its environment; the mark finds what lost its ancestor. Daemons that forked twice and made a
session of their own are still descendants: the first process of a box adopts orphans.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

MARK = "VL_BOX"
"""Environment variable of everything on a box; its value is the box's id."""

_PROC = Path("/proc")
_PR_SET_CHILD_SUBREAPER = 36
_ROUND_S = 0.005


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents end. Raises ``OSError`` where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def of(root: int) -> set[int]:
    """Pids of the living descendants of ``root``, itself not among them."""
    children: dict[int, list[int]] = {}
    dead: set[int] = set()
    for pid in _pids():
        try:
            stat = (_PROC / str(pid) / "stat").read_bytes()
        except OSError:  # it ended since the folder was listed
            continue
        state, parent = stat[stat.rindex(b")") + 2 :].split(None, 2)[:2]
        children.setdefault(int(parent), []).append(pid)
        if state in (b"Z", b"X"):
            dead.add(pid)
    found: set[int] = set()
    ahead = [root]
    while ahead:
        for pid in children.get(ahead.pop(), ()):
            found.add(pid)
            ahead.append(pid)
    return found - dead


def marked(box: str) -> set[int]:
    """Pids of the living processes that carry the mark of ``box``."""
    return {pid for pid, found in all_marked().items() if found == box}


def all_marked() -> dict[int, str]:
    """Every living process that carries a box's mark, by pid."""
    start = f"{MARK}=".encode()
    found = {}
    for pid in _pids():
        try:
            environ = (_PROC / str(pid) / "environ").read_bytes()  # a zombie's is empty
        except OSError:  # ended, or another person's
            continue
        for entry in environ.split(b"\0"):
            if entry.startswith(start):
                found[pid] = entry[len(start) :].decode(errors="replace")
    return found


def end(find: Callable[[], set[int]], *, within_s: float, reap: Callable[[], None] = lambda: None) -> set[int]:
    """SIGKILL all that ``find`` finds, until it finds none; return what is left after ``within_s`` seconds. Everything
    is stopped first: a stopped process forks no child that would be missed. Blocks."""
    deadline = time.monotonic() + within_s
    stopped: set[int] = set()
    while True:
        reap()
        found = find()
        if not found or time.monotonic() > deadline:
            return found
        fresh = found - stopped
        if fresh:
            _signal(fresh, signal.SIGSTOP)
            stopped |= fresh
            continue
        _signal(found, signal.SIGKILL)
        time.sleep(_ROUND_S)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdecimal()]


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue
