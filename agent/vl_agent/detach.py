"""Starts a process that outlives whoever started it, and waits until it says that it is ready.

A double fork whose first parent waits for the grandchild's word: forms that exit at once lose the race against the
end of a pty's session, and forms that keep the SSH channel's descriptors hang it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def detached(child: Callable[[Callable[[str], None]], None], log: Path, keep: int) -> str:
    """Run ``child(say_ready)`` in a process of its own session, its output in ``log``; of all descriptors it keeps
    ``keep`` (its lock) alone. Returns the word that it said; empty: it ended without one."""
    read, write = os.pipe()
    first = os.fork()
    if first == 0:
        _become(child, log, keep, read, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        word = pipe.read()  # until the grandchild has closed its end, or died
    os.waitpid(first, 0)
    return word.decode("utf-8", "replace")


def _become(child: Callable[[Callable[[str], None]], None], log: Path, keep: int, read: int, write: int) -> NoReturn:
    os.close(read)
    os.setsid()
    if os.fork():
        os._exit(0)
    status = 1
    try:
        os.umask(0o077)
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDONLY)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(null, 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir("/")
        for fd in range(3, 1024):
            if fd not in (keep, write):
                with contextlib.suppress(OSError):
                    os.close(fd)

        def say(word: str) -> None:
            os.write(write, word.encode())
            os.close(write)

        child(say)
        status = 0
    except BaseException:  # noqa: BLE001 - a forked child must never return into its parent's code
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
