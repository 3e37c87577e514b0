"""How often to save: from what a save costs the training and how often a box is lost. Pure.

Young (CACM 17(9):530, 1974) and Daly (FGCS 22:303, 2006), with the share of losses that are announced early enough for
a fresh save taken out: those lose nothing, however long ago the last save was.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEAST_STEPS = 10
"""A save more often than each so many steps is never wanted."""
LEAST_S = 5.0
TURN = 1.5
"""The cadence is changed by more than this factor only: a factor of two off costs less than half a percent."""
_RECENT = 7
_ADVISED_FROM = 3
"""Saves of the script's own after which its schedule is judged."""
_FAR_OFF = 2.0


@dataclass(frozen=True)
class Wanted:
    """A cadence and the figures that it comes from, for the journal."""

    every_s: float
    why: str


def interval(stall_s: float, losses_per_hour: float, *, announced: float = 0.0, least_s: float = 0.0) -> float:
    """Seconds between saves that lose the least training time. ``stall_s``: what a save stops the training for;
    ``announced``: share (0 to 1) of losses with a notice that leaves time for a fresh save; ``least_s``: what one save
    takes until it is durable. Without losses: infinite."""
    unannounced = losses_per_hour * (1.0 - min(1.0, max(0.0, announced)))
    if unannounced <= 0.0:
        return math.inf
    mean_s = 3600.0 / unannounced
    if stall_s >= 2.0 * mean_s:
        return max(mean_s, least_s)
    young = math.sqrt(2.0 * stall_s * mean_s)
    small = math.sqrt(stall_s / (2.0 * mean_s))
    daly = young * (1.0 + small / 3.0 + small * small / 9.0) - stall_s
    return max(daly, least_s)


class Autopilot:
    """Learns from the journal's events as they are told, and says when another cadence is better. Times in seconds by
    the caller's monotonic clock."""

    def __init__(self, losses_per_hour: float, *, announced: float = 0.0) -> None:
        self._losses, self._announced = losses_per_hour, announced
        self._stalls: deque[float] = deque(maxlen=_RECENT)
        self._durable: deque[float] = deque(maxlen=_RECENT)
        self._steps: deque[float] = deque(maxlen=50)
        self._step: tuple[int, float] | None = None
        self._pause = 0.0
        self._saves: deque[float] = deque(maxlen=_RECENT)
        self._told: float | None = None

    def hear(self, kind: str, fields: Mapping[str, Any], now: float) -> None:
        """One event: ``step``, ``saved`` and ``durable`` teach something."""
        if kind == "step" and type(fields.get("step")) is int:
            self._hear_step(fields["step"], now)
        elif kind == "saved":
            took = fields.get("stall_s", fields.get("took_s"))
            if took is None and self._steps:  # the script does not tell: the longest pause in its steps is the save
                took = max(0.0, self._pause - statistics.median(self._steps))
            if took is not None:
                self._stalls.append(float(took))
            self._saves.append(now)
            self._pause = 0.0
        elif kind == "durable" and isinstance(fields.get("took_s"), (int, float)):
            self._durable.append(float(fields["took_s"]))

    def _hear_step(self, step: int, now: float) -> None:
        if self._step is not None and step > self._step[0]:
            took = (now - self._step[1]) / (step - self._step[0])
            self._steps.append(took)
            self._pause = max(self._pause, now - self._step[1])
        self._step = (step, now)

    def wanted(self) -> Wanted | None:
        """The cadence for a script that follows ours, when it turns; None: nothing measured yet, or as told before."""
        found = self._best()
        if found is None or (self._told is not None and _within(found.every_s, self._told, TURN)):
            return None
        self._told = found.every_s
        return found

    def advice(self) -> Wanted | None:
        """For a script that saves on its own schedule: what would be better, once it is far off."""
        if len(self._saves) <= _ADVISED_FROM:
            return None
        own = statistics.median(b - a for a, b in zip(self._saves, list(self._saves)[1:], strict=False))
        found = self._best()
        if found is None or own <= 0 or _within(found.every_s, own, _FAR_OFF):
            return None
        if self._told is not None and _within(found.every_s, self._told, _FAR_OFF):
            return None
        self._told = found.every_s
        return Wanted(found.every_s, f"the script saves every {_words(own)}; {found.why}")

    def _best(self) -> Wanted | None:
        if not self._stalls:
            return None
        stall = statistics.median(self._stalls)
        durable = max(self._durable, default=0.0)
        steps = LEAST_STEPS * statistics.median(self._steps) if self._steps else 0.0
        least = max(LEAST_S, stall + durable, steps)
        every = interval(stall, self._losses, announced=self._announced, least_s=least)
        if math.isinf(every):
            return None
        losses = f"one unannounced loss in {_words(3600.0 / (self._losses * (1.0 - self._announced)))} expected"
        why = f"a save stops the training for {stall:.2g} s, {losses}: every {_words(every)} loses the least"
        if every <= least:
            why = f"{why}, and no quicker, as one save takes so long until it is durable"
        return Wanted(round(every, 1), why)


def _within(one: float, other: float, factor: float) -> bool:
    return max(one, other) <= factor * min(one, other)


def _words(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
