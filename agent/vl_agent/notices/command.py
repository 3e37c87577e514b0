"""Any program as a source: it is run again and again, and says by its exit status 0, or by printing a line, that the
box will be taken. A line of JSON may name the moment: ``{"deadline": 1795486702}``, in unix seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
from typing import Any

from vl_agent import processes
from vl_agent.notices import Ear, Hearing, Notice, jittered

TIMEOUT_S = 600.0
"""A program may wait for its notice; after so long it is ended and started anew."""
AGAIN_S = 5.0
_MOST_LINE = 4096


async def watch(words: str, ear: Ear, *, timeout_s: float = TIMEOUT_S, again_s: float = AGAIN_S) -> None:
    """Tell of a notice once; ends then. ``words`` are split as a shell would; no shell runs them."""
    hearing = Hearing("command", ear)
    while True:
        try:
            found = await _once(shlex.split(words), timeout_s)
            if found is not None:
                ear.notice(found)
                return
            hearing.works()
        except (OSError, ValueError) as error:
            hearing.failed(f"{words[:80]}: {getattr(error, 'strerror', None) or error}")
        await asyncio.sleep(jittered(again_s))


async def _once(words: list[str], timeout_s: float) -> Notice | None:
    """One run. None: it ended otherwise, or not in time. Raises ``OSError``, ``ValueError``."""
    if not words:
        raise ValueError("no program is named")
    process = await _start(words)
    processes.own.add(process.pid)
    try:
        reading = asyncio.create_task(_said(process))
        done, _ = await asyncio.wait({reading}, timeout=timeout_s)
        if not done:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            return None
        return reading.result()
    finally:
        await _end(process)
        processes.own.discard(process.pid)


async def _start(words: list[str]) -> asyncio.subprocess.Process:
    """A process that has begun is never forgotten, also when the watch is ended in just that moment."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, start_new_session=True, env={**os.environ, processes.APART: "1"},
            limit=_MOST_LINE,
        )
    )  # fmt: skip
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await _end(await starting)
        raise


async def _said(process: asyncio.subprocess.Process) -> Notice | None:
    """The first line that says something, or the exit status."""
    assert process.stdout is not None
    try:
        while line := await process.stdout.readline():
            if line.strip():
                return Notice("command", _deadline(line), _printable(line))
    except ValueError:  # a line beyond every limit is a line
        return Notice("command", None, "said a long line")
    return Notice("command", None, "exit status 0") if await process.wait() == 0 else None


def _deadline(line: bytes) -> float | None:
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    deadline = found.get("deadline") if isinstance(found, dict) else None
    if isinstance(deadline, bool) or not isinstance(deadline, (int, float)) or not 0 < deadline < 1e12:
        return None
    return float(deadline)


def _printable(line: bytes) -> str:
    return "".join(char for char in line.decode("utf-8", "replace").strip() if char.isprintable())[:80]


async def _end(process: asyncio.subprocess.Process) -> None:
    """It and what it started."""
    waiting = asyncio.create_task(process.wait())
    try:
        _signal(process, signal.SIGTERM)
        await asyncio.wait({waiting}, timeout=1.0)
    finally:
        _signal(process, signal.SIGKILL)
        assert process.stdout is not None
        rest = asyncio.create_task(process.stdout.read())  # to its end, which closes the pipe
        await asyncio.wait({waiting, rest}, timeout=1.0)
        for task in (waiting, rest):
            task.cancel()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
