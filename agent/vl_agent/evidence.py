"""Where a training stands, seen from outside: its stacks, its processes' states, and whether it uses a processor.

Everything here may meet a process that can't be looked at (another's, in an uninterruptible wait, under a kernel that
forbids it), so every look has a limit, and what can't be had is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from vl_agent import processes
from vl_agent.metrics.lines import plain
from vl_agent.processes import PROC

T = TypeVar("T")

LIMIT_S = 5.0
"""A look that takes longer is given up."""
_MOST_PROCESSES = 8
_MOST_THREADS = 24
MOST_TEXT = 12_000
"""Characters of stacks."""
_IDLE = 0.02
"""A training that uses less of one processor stands still."""
_SIGUSR1_CAUGHT = 1 << (signal.SIGUSR1 - 1)
_THREAD = re.compile(r'Thread .*?: "(.*)"$')


@dataclass(frozen=True)
class Look:
    """One look at a training. ``tool``: py-spy | proc."""

    at: float
    """By the monotonic clock."""
    tool: str
    stacks: str
    where: str = ""
    """The two innermost frames of the first process's main thread: what waits, and for whom."""
    frames: tuple[str, ...] = ()
    """The main threads' stacks, to be compared; empty: they can't be seen."""
    cpu_s: float | None = None
    """Processor time that its processes have used in all."""
    paused: bool = False
    """A signal has stopped it, or a debugger."""


def stands_still(before: Look, after: Look) -> bool | None:
    """Whether nothing moved between two looks; None: it works at something that can't be seen."""
    if before.frames and after.frames:
        return before.frames == after.frames
    if before.cpu_s is None or after.cpu_s is None or after.at <= before.at:
        return None
    return True if (after.cpu_s - before.cpu_s) / (after.at - before.at) < _IDLE else None


async def look(pids: Sequence[int]) -> Look:
    """At the processes ``pids``: by py-spy where it is installed and allowed, else by /proc."""
    at = time.monotonic()
    chosen = await within(lambda: chief(pids)) or list(pids)[:_MOST_PROCESSES]
    cpu_s = await within(lambda: cpu_of(pids))
    paused = bool(await within(lambda: any(state_of(pid) in "Tt" for pid in chosen)))
    seen = Look(at, "proc", "", cpu_s=cpu_s, paused=paused)
    dumps = await _dumps(chosen)
    if dumps:
        frames = tuple(main_thread(dump) for dump in dumps)
        where = next((" in ".join(one.split("\n")[:2]) for one in frames if one), "")
        return replace(seen, tool="py-spy", stacks=clipped("\n\n".join(dumps)), where=where, frames=frames)
    kernel = await within(lambda: "\n\n".join(kernel_view(pid) for pid in chosen))
    return replace(seen, stacks=clipped(kernel or ""))


# -- py-spy ----------------------------------------------------------------------------------------------------------


async def _dumps(pids: Collection[int]) -> list[str]:
    tool = shutil.which("py-spy", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)]))
    if tool is None:
        return []
    found = []
    for pid in pids:
        text = await _dump(tool, pid, "--nonblocking") or await _dump(tool, pid)
        if text:
            found.append("\n".join(plain_indented(line) for line in text.splitlines()))
    return found


async def _dump(tool: str, pid: int, *options: str) -> str:
    """What ``py-spy dump`` prints; empty: it was refused, or took too long (then it is killed and not waited for)."""
    try:
        process = await asyncio.create_subprocess_exec(
            tool, "dump", *options, "--pid", str(pid), stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except OSError:
        return ""
    processes.own.add(process.pid)
    waiting = asyncio.create_task(process.communicate())
    try:
        await asyncio.wait({waiting}, timeout=LIMIT_S)
        if waiting.done():
            return waiting.result()[0].decode("utf-8", "replace") if process.returncode == 0 else ""
        return ""
    finally:
        if not waiting.done():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.wait({waiting}, timeout=0.5)  # in an uninterruptible wait it can't be ended
            waiting.cancel()
        else:
            processes.own.discard(process.pid)


def main_thread(dump: str) -> str:
    """The main thread's frames in a dump, innermost first, one a line; of several threads without a name, all."""
    threads: dict[str, list[str]] = {}
    name = None
    for line in dump.splitlines():
        found = _THREAD.match(line)
        if found is not None or line.startswith("Thread "):
            name = found[1] if found else line
            threads[name] = []
        elif name is not None and line.startswith("    "):
            threads[name].append(line.strip())
    if "MainThread" in threads:
        return "\n".join(threads["MainThread"])
    return "\n".join(frame for frames in threads.values() for frame in frames)


# -- /proc -----------------------------------------------------------------------------------------------------------


def chief(pids: Sequence[int]) -> list[int]:
    """The Python programs among ``pids``, without the workers that a data loader forks (their command line is their
    parent's)."""
    found = []
    for pid in pids:
        process = processes.look_up(pid)
        if process is None or process.zombie or not _is_python(pid):
            continue
        if process.parent in pids and _read(process.parent, "cmdline") == _read(pid, "cmdline"):
            continue
        found.append(pid)
    return found[:_MOST_PROCESSES]


def _is_python(pid: int) -> bool:
    try:
        return "python" in os.path.basename(os.readlink(PROC / str(pid) / "exe"))
    except OSError:
        return False


def state_of(pid: int) -> str:
    """One letter, as /proc has it; ``?``: not known."""
    stat = _read(pid, "stat")
    return stat[stat.rindex(")") + 2] if ")" in stat else "?"


def cpu_of(pids: Collection[int]) -> float:
    """Processor seconds that the processes have used."""
    ticks = 0
    for pid in pids:
        stat = _read(pid, "stat")
        if ")" in stat:
            fields = stat[stat.rindex(")") + 2 :].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def kernel_view(pid: int) -> str:
    """What a process and its threads wait for, as the kernel says."""
    lines = [
        f"process {pid} {_read(pid, 'comm').strip()}: state {state_of(pid)}, waits in {_read(pid, 'wchan') or '?'}"
    ]
    with contextlib.suppress(OSError):
        for thread in sorted(os.listdir(PROC / str(pid) / "task"), key=int)[:_MOST_THREADS]:
            task = f"task/{thread}"
            stat = _read(pid, f"{task}/stat")
            state = stat[stat.rindex(")") + 2] if ")" in stat else "?"
            name, wait = _read(pid, f"{task}/comm").strip(), _read(pid, f"{task}/wchan")
            lines.append(f"  thread {thread} {name}: {state} {wait if wait not in ('', '0') else ''}".rstrip())
    lines += [f"  {line}" for line in _read(pid, "stack").splitlines()[:12]]
    return "\n".join(plain_indented(line) for line in lines)


def listens_for_stacks(pid: int) -> bool:
    """Whether SIGUSR1 may be sent: it is caught, and not by somebody who takes it for the end of a Slurm job."""
    caught = re.search(r"^SigCgt:\s*([0-9a-f]{1,16})$", _read(pid, "status"), re.MULTILINE)
    environment = _read(pid, "environ")
    if caught is None or "\0SLURM_" in f"\0{environment}":
        return False
    return bool(int(caught[1], 16) & _SIGUSR1_CAUGHT)


def ask_for_stacks(pids: Collection[int]) -> list[int]:
    """Have ``faulthandler`` print into the log, where it is registered; which processes were asked."""
    asked = []
    for pid in pids:
        if listens_for_stacks(pid):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGUSR1)
                asked.append(pid)
    return asked


def _read(pid: int, name: str) -> str:
    try:
        with open(PROC / str(pid) / name, "rb") as file:
            return file.read(1 << 16).decode("utf-8", "replace")
    except OSError:
        return ""


# -- limits ----------------------------------------------------------------------------------------------------------


def clipped(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "\n..."


def plain_indented(line: str) -> str:
    """``plain``, with the blanks at the beginning kept."""
    return " " * min(8, len(line) - len(line.lstrip(" "))) + plain(line)


async def within(act: Callable[[], T], limit_s: float = LIMIT_S) -> T | None:
    """What ``act`` returns, in a thread that nobody waits for when it takes longer; then, or where what it looks at is
    not there, None. (A read in /proc waits for a lock that a stuck process may hold; the thread pool would wait for it
    at the end.)"""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T | None] = loop.create_future()

    def give(value: T | None, error: Exception | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(value)

    def work() -> None:
        value, failed = None, None
        try:
            value = act()
        except (OSError, ValueError):
            pass
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(give, value, failed)

    threading.Thread(target=work, daemon=True).start()
    await asyncio.wait({answer}, timeout=limit_s)
    return answer.result() if answer.done() else None
