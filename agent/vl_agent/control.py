"""The files by which helper and supervisor talk, in the folder that ``VL_CONTROL`` names.

Files and not a socket: they survive a restart of either side, cost the training one ``stat`` a step, and can be read by
a person. Standard library only: this module enters the training process.

``progress.jsonl``  appended by the helper and its writer, one JSON object a line, each by one write:
                    {helper, pid}                         it is there
                    {step, loss, total, t, nonfinite?}    a step; loss null: not known, or nonfinite (nan, inf, -inf)
                    {saved, step, took_s, stall_s}        a save is whole on disk
                    {skipped, why}                        a save of this step was due and will not come
                    {stopped, why}                        saved this step, as it was told to, and ends
``notice.json``     put there by the supervisor: save now and stop
``cadence.json``    put there by the supervisor: the person's cadence
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOPPED_EXIT = 75
"""Exit status (EX_TEMPFAIL) of a training command that saved and stopped because it was told to."""

_MOST_LINE = 64 * 1024
_MOST_AT_ONCE = 256 * 1024


@dataclass(frozen=True)
class Notice:
    why: str
    """notice or stop."""
    deadline: float | None
    """Unix seconds by this machine's clock at which the box goes, where known."""


class Progress:
    """The helper's side of ``progress.jsonl``. Without a folder every word is dropped."""

    def __init__(self, folder: str | None) -> None:
        self._fd = -1
        if folder:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(os.path.join(folder, "progress.jsonl"), flags, 0o600)

    def tell(self, **words: Any) -> None:
        """Append one object. A full disk must not end the training: what can't be told is not told."""
        if self._fd < 0:
            return
        line = json.dumps(words, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        try:
            os.write(self._fd, line)
        except OSError:
            return


def leave_signals_to_the_agent() -> None:
    """For a script that can be told to save and stop. Slurm sends its signals to every process of a job's step, and
    more than once: they are the agent's to act on, which tells the script, and kills it when its time is over. Handlers
    that the script has itself stay."""
    if not {"SLURM_JOB_ID", "VL_CONTROL"} <= os.environ.keys():
        return
    me = os.getpid()

    def heard(number: int, _frame: object) -> None:
        if os.getpid() != me:  # a worker that was forked from it
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        with contextlib.suppress(ValueError):  # not in the main thread: nothing can be done
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, heard)


def loss_words(value: float | None) -> dict[str, Any]:
    """A loss as the helper tells it: one that is no finite number is told by name, so that it is not taken for one that
    nobody knows."""
    if value is None or math.isfinite(value):
        return {"loss": value}
    return {"loss": None, "nonfinite": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}


def finite(value: float | None) -> float | None:
    """A number that JSON can carry: NaN and infinities become None."""
    return value if value is not None and math.isfinite(value) else None


class ProgressReader:
    """The supervisor's side: what was appended since the last look. ``skipped`` counts lines that are no objects;
    ``behind``: there is more than was read at once."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "progress.jsonl"
        self._offset = 0
        self._rest = b""
        self.skipped = 0
        self.behind = False

    def more(self) -> list[dict[str, Any]]:
        """Objects appended since the last call, so many as may be read without a pause; an unfinished last line waits
        for its end."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                chunk = file.read(_MOST_AT_ONCE)
        except FileNotFoundError:
            return []
        self._offset += len(chunk)
        self.behind = len(chunk) == _MOST_AT_ONCE
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _MOST_LINE:
            self._rest = b""
            self.skipped += 1
        return [found for line in lines if (found := self._parse(line)) is not None]

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        try:
            found = json.loads(line) if len(line) <= _MOST_LINE else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self.skipped += bool(line)
            return None
        return found


def write_notice(folder: Path, why: str, deadline: float | None) -> None:
    _replace(folder / "notice.json", {"why": why, "deadline": deadline})


def write_cadence(folder: Path, every_s: float) -> None:
    _replace(folder / "cadence.json", {"every_s": every_s})


def clear(folder: Path) -> None:
    """Make the folder ready for an attempt: nothing of a former one is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("progress.jsonl", "notice.json", "cadence.json"):
        (folder / name).unlink(missing_ok=True)


def read_notice(folder: str) -> Notice | None:
    """The supervisor's word to stop, if it is there."""
    found = _read(os.path.join(folder, "notice.json"))
    if found is None:
        return None
    deadline = found.get("deadline")
    return Notice(str(found.get("why", "notice")), float(deadline) if isinstance(deadline, (int, float)) else None)


def read_cadence(folder: str) -> float | None:
    """Seconds between saves, where a person said so."""
    found = _read(os.path.join(folder, "cadence.json"))
    every = None if found is None else found.get("every_s")
    return float(every) if isinstance(every, (int, float)) and every > 0 else None


def _read(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_MOST_LINE))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _replace(path: Path, words: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.write_text(json.dumps(words))
    os.replace(temporary, path)
