"""What a notice's window allows, from what saves and uploads took so far: pure, and its figures go into the journal.

A fresh save costs the training nothing more, the box goes anyway; but what it sends delays what is being sent. So it is
chosen only when all of it fits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

MARGIN_S = 5.0
"""Kept free of a window, for the last commit and the word that the run is released; of a short one a quarter."""
_RECENT = 5
_RECENT_STEPS = 20


@dataclass(frozen=True)
class Measured:
    """Seconds, the worst of the last few; None: not measured yet."""

    save_s: float | None = None
    """From the word to the script to a whole save, the step under way included."""
    upload_s: float | None = None
    """From a whole save to durable."""
    pending_s: float | None = None
    """What is left, by that measure, of the save that is on its way into the store; None: none is, or not known."""
    pending: bool = False


@dataclass(frozen=True)
class Choice:
    choice: Literal["fresh", "upload", "none"]
    why: str
    figures: Mapping[str, float | None]


def margin_s(window_s: float) -> float:
    """What is kept free of a window of ``window_s`` seconds."""
    return min(MARGIN_S, max(0.0, window_s) / 4)


def choose(left_s: float | None, seen: Measured, *, helper: bool, margin_s: float = MARGIN_S) -> Choice:
    """What to do with ``left_s`` seconds until the box goes (None: nobody knows how many), ``margin_s`` of them kept
    free. There are six cases:

    1. the script saves on its own only: what it saved and saves is uploaded;
    2. nobody knows how long is left: what is on its way first, then a fresh save;
    3. saves or uploads are not measured yet: a fresh save is tried;
    4. what is on its way, a fresh save and its upload fit: a fresh save;
    5. they do not, but something is on its way: that is finished;
    6. nothing is on its way: what is durable stays.
    """
    window = None if left_s is None else left_s - margin_s
    figures = {"window_s": _r(window), "save_s": _r(seen.save_s), "upload_s": _r(seen.upload_s)}
    figures["pending_s"] = _r(seen.pending_s)

    def chosen(choice: Literal["fresh", "upload", "none"], why: str) -> Choice:
        return Choice(choice, why, figures)

    if not helper:
        return chosen("upload", "the script saves on its own: its newest is uploaded")
    if window is None and seen.pending:
        return chosen("upload", "nobody says how long is left: the save on its way first")
    if window is None:
        return chosen("fresh", "nobody says how long is left, and nothing else is on its way")
    if seen.save_s is None or seen.upload_s is None:
        return chosen("fresh", f"{_unmeasured(seen)} not measured yet: tries within {window:.1f} s")
    needed = max(seen.save_s, seen.pending_s or 0.0) + seen.upload_s
    sum_words = f"save {seen.save_s:.1f} s, upload {seen.upload_s:.1f} s"
    if seen.pending_s:
        sum_words += f", {seen.pending_s:.1f} s of the one on its way"
    if needed <= window:
        return chosen("fresh", f"{sum_words}: fits into {window:.1f} s")
    if seen.pending:
        return chosen("upload", f"{sum_words}: not within {window:.1f} s; the one on its way is finished")
    return chosen("none", f"{sum_words}: not within {window:.1f} s; the last durable save stays")


def _unmeasured(seen: Measured) -> str:
    if seen.save_s is None and seen.upload_s is None:
        return "save and upload are"
    return "the save is" if seen.save_s is None else "the upload is"


def _r(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


class Measures:
    """Learns from the journal's events as they are told. Times by the caller's monotonic clock."""

    def __init__(self) -> None:
        self._saves: deque[float] = deque(maxlen=_RECENT)
        self._uploads: deque[float] = deque(maxlen=_RECENT)
        self._steps: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._step: tuple[int, float] | None = None
        self._saved_at = self._durable_at = 0.0

    def hear(self, kind: str, fields: Mapping[str, Any], now: float) -> None:
        """One event: ``step``, ``saved`` and ``durable`` teach something."""
        if kind == "step":
            self._hear_step(fields.get("step"), now)
        elif kind == "saved":
            self._saved_at = now
            self.hear_save(fields.get("took_s"))
        elif kind == "durable":
            self._durable_at = now
            self._uploads.append(fields.get("took_s") or 0.0)

    def hear_save(self, took_s: float | None) -> None:
        """The script's own word on what a save took: the file may have been found, and told, before it came."""
        if took_s is not None:
            self._saves.append(took_s)

    def _hear_step(self, step: Any, now: float) -> None:
        """Steps may be told every hundredth only: the time of one is what the script needs to hear the word."""
        if self._step is not None and step > self._step[0]:
            self._steps.append((now - self._step[1]) / (step - self._step[0]))
        self._step = (step, now)

    def measured(self, now: float, *, pending: bool) -> Measured:
        """``pending``: a save is on its way into the store."""
        upload = max(self._uploads, default=None)
        save = max(self._saves) + max(self._steps, default=0.0) if self._saves else None
        rest = None
        if pending and upload is not None:
            rest = max(0.0, upload - (now - max(self._saved_at, self._durable_at)))
        return Measured(save, upload, rest, pending)
