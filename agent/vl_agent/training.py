"""The training command: started in a session of its own, writing into one file by itself, and how it ended.

It outlives the supervisor: a supervisor that starts in a dead one's place finds the processes again by what was written
before they were started, and ends them before it begins anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets as randomness
import signal
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vl_agent import hide, processes
from vl_agent.control import STOPPED_EXIT
from vl_agent.paths import replace_file
from vl_agent.processes import Family
from vl_agent.protocol import Cause

LEFT_GRACE_S = 2.0
"""What a command that has ended left running gets so long after SIGTERM."""
WRITING_S = 120.0
"""And the helper's writer, whose trainer was killed after it had handed a save over: the save is worth the wait."""
_TAIL = 64 * 1024
_BY_SIGNAL = {128 + number for number in (1, 2, 3, 4, 6, 7, 8, 9, 11, 15)}
"""Exit statuses by which a shell says that its command died of a signal."""
_OUT_OF_MEMORY = ("CUDA out of memory", "OutOfMemoryError")
_DISK_FULL = ("No space left on device", "Disk quota exceeded")


@dataclass(frozen=True)
class Ended:
    """How the command ended. ``code`` None: by ``signal``."""

    code: int | None
    signal: int | None
    cause: Cause
    detail: str


class Training:
    """One running command. ``log`` gets its stdout and stderr, appended."""

    def __init__(self, record: Path, log: Path, secrets: Collection[str] = ()) -> None:
        """``secrets``: values that are hidden in how it ended."""
        self._record, self._log, self._secrets = record, log, secrets
        self._process: asyncio.subprocess.Process | None = None
        self._family: Family | None = None
        self._asked = ""
        self._ending = asyncio.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def members(self) -> list[int]:
        """Pids of its living processes. Blocks."""
        return [] if self._family is None else processes.members(self._family)

    async def start(self, command: str, folder: Path, env: Mapping[str, str]) -> None:
        """Run ``command`` by ``/bin/sh -c`` in ``folder``. Raises ``OSError``."""
        marker = randomness.token_hex(8)
        self._remember(Family(processes.boot_id(), 0, 0, marker))
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", command, cwd=folder, env={**env, processes.MARKER: marker},
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(log)
        found = processes.look_up(self._process.pid)
        start = found.start if found else 0
        with contextlib.suppress(OSError):  # the disk is full by now: the marker finds it as well
            self._remember(Family(processes.boot_id(), self._process.pid, start, marker))

    async def wait(self) -> Ended:
        """Until the command's shell has ended; what it left running is ended too."""
        assert self._process is not None
        assert self._family is not None
        status = await self._process.wait()
        async with self._ending:  # who was asked to end keeps its grace, also when its shell is gone already
            await processes.end_family(self._family, grace_s=LEFT_GRACE_S, writing_s=WRITING_S)
        return classify(status, self._asked, hide.without(tail(self._log), self._secrets))

    async def end(self, why: str, grace_s: float) -> None:
        """Ask every process of it to end, and kill what is left after ``grace_s``. ``wait`` then returns."""
        self._asked = self._asked or why
        if self._family is None:
            return
        async with self._ending:
            await processes.end_family(self._family, grace_s=grace_s)

    def _remember(self, family: Family) -> None:
        self._family = family
        replace_file(self._record, json.dumps(asdict(family)).encode(), sync=True)


async def end_former(record: Path) -> bool:
    """End the training that a dead supervisor left running here. True: there was one."""
    try:
        family = Family(**json.loads(record.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return False
    left = processes.members(family)
    if left:
        await processes.end_family(family, grace_s=5.0)
    return bool(left)


def classify(status: int, asked: str, log_tail: str) -> Ended:
    """``status`` as asyncio gives it: negative for a signal. ``asked``: why the supervisor ended it, or empty. Of a
    command that was told to end no exit status says anything: 0 and 1 are what scripts make of SIGTERM."""
    code, number = (None, -status) if status < 0 else (status, None)
    if status in _BY_SIGNAL:
        code, number = None, status - 128
    how = f"exit status {code}" if number is None else _signal_name(number)
    if asked:
        cause: Cause = "fenced" if asked == "fenced" else "notice" if asked == "notice" else "stopped"
        return Ended(code, number, cause, f"{how if number is None else f'ended by {how}'}: {asked}")
    if number is not None:
        why = ": the machine's memory may have run out" if number == signal.SIGKILL else ""
        return Ended(None, number, "killed", f"killed by {how}{why}")
    if code == 0:
        return Ended(0, None, "finished", how)
    if code == STOPPED_EXIT:
        return Ended(code, None, "notice", "saved and stopped as told")
    cause = "out_of_memory" if any(mark in log_tail for mark in _OUT_OF_MEMORY) else "user_error"
    if any(mark in log_tail for mark in _DISK_FULL):
        cause = "host_fault"
    return Ended(code, None, cause, f"{how}: {last_line(log_tail)}")


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"


def tail(log: Path) -> str:
    """The end of the log, for the reason of a failure."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def last_line(text: str) -> str:
    """The last line that says something: printable characters only, at most 200."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "".join(char for char in lines[-1] if char.isprintable())[:200] if lines else "it printed nothing"
