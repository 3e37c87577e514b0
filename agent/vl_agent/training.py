"""The training command: started in a session of its own, writing into one file by itself, and how it ended.

It outlives the supervisor: a supervisor that starts in a dead one's place finds the processes again by what was written
before they were started, and ends them before it begins anything.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vl_agent import processes
from vl_agent.control import STOPPED_EXIT
from vl_agent.paths import replace_file
from vl_agent.processes import Family
from vl_agent.protocol import Cause

_TAIL = 64 * 1024


@dataclass(frozen=True)
class Ended:
    """How the command ended. ``code`` None: by ``signal``."""

    code: int | None
    signal: int | None
    cause: Cause
    detail: str


class Training:
    """One running command. ``log`` gets its stdout and stderr, appended."""

    def __init__(self, record: Path, log: Path) -> None:
        self._record, self._log = record, log
        self._process: asyncio.subprocess.Process | None = None
        self._family: Family | None = None
        self._asked = ""

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    async def start(self, command: str, folder: Path, env: Mapping[str, str]) -> None:
        """Run ``command`` by ``/bin/sh -c`` in ``folder``. Raises ``OSError``."""
        marker = secrets.token_hex(8)
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
        self._remember(Family(processes.boot_id(), self._process.pid, start, marker))

    async def wait(self) -> Ended:
        """Until the command's shell has ended; what it left running is ended too."""
        assert self._process is not None
        assert self._family is not None
        status = await self._process.wait()
        await processes.end_family(self._family, grace_s=2.0)
        return classify(status, self._asked, tail(self._log))

    async def end(self, why: str, grace_s: float) -> None:
        """Ask every process of it to end, and kill what is left after ``grace_s``. ``wait`` then returns."""
        self._asked = self._asked or why
        if self._family is not None:
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
    """``status`` as asyncio gives it: negative for a signal. ``asked``: why the supervisor ended it, or empty."""
    if status < 0 or status in (128 + signal.SIGKILL, 128 + signal.SIGTERM):
        number = -status if status < 0 else status - 128
        name = signal.Signals(number).name if number in list(signal.Signals) else str(number)
        if asked:
            return Ended(None, number, "stopped" if asked != "fenced" else "fenced", f"ended by {name}: {asked}")
        if number == signal.SIGKILL:
            return Ended(None, number, "killed", "killed by SIGKILL: the machine's memory may have run out")
        return Ended(None, number, "killed", f"killed by {name}")
    if status == 0:
        return Ended(0, None, "finished", "exit status 0")
    if status == STOPPED_EXIT:
        return Ended(status, None, "notice", "saved and stopped as told")
    if "CUDA out of memory" in log_tail or "OutOfMemoryError" in log_tail:
        return Ended(status, None, "out_of_memory", f"exit status {status}: {last_line(log_tail)}")
    return Ended(status, None, "user_error", f"exit status {status}: {last_line(log_tail)}")


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
