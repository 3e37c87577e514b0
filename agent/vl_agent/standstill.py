"""When a training that makes no step is taken to hang. Pure: times come from outside, by one monotonic clock.

What is learned is the usual silence between two steps, however many processes or lines lie between. The first steps are
a class of their own (compiling), and so is whatever shows that something else is done: a save, an evaluation. Where the
script tells and prints no step, nothing can be said.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

LEAST_S = 60.0
"""No shorter silence is suspicious."""
FIRST_S = 900.0
FIRST_STEPS = 5
"""So many silences after the first step may take ``FIRST_S``: compiling, filling caches."""
USUAL = 5
"""So many times the longest usual silence (99 of 100 are shorter) is suspicious."""
HUNG_S = 600.0
"""Nothing is done about a shorter silence: it may be an evaluation that was not seen before."""
BLIND_HUNG_S = 3600.0
"""The same where it can't be seen whether the training stands still or works."""

Stage = Literal["", "suspected", "confirmed"]


class Watchdog:
    """Learns from steps; ``judge`` says what a silence means."""

    def __init__(self) -> None:
        self._alive: float | None = None
        self._silences: deque[float] = deque(maxlen=512)
        self._firsts = 0
        self._longest = 0.0

    def step(self, now: float) -> None:
        """A step was made."""
        if self._alive is not None:
            silence = now - self._alive
            if self._firsts < FIRST_STEPS:
                self._firsts += 1
            else:
                self._silences.append(silence)
                self._longest = max(self._longest, silence)
        self._alive = now

    def excuse(self, now: float) -> None:
        """No step, but no standstill either: it saves, evaluates, was paused, or nobody was looking."""
        if self._alive is not None:
            self._alive = now

    def silent_s(self, now: float) -> float | None:
        """Since the last sign of life; None: no step was ever seen."""
        return None if self._alive is None else now - self._alive

    @property
    def usual_s(self) -> float:
        """What 99 of 100 silences stay below; 0 while nothing is known."""
        ordered = sorted(self._silences)
        return ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0

    @property
    def limit_s(self) -> float:
        """A longer silence is suspicious. One that ended by itself was none, so the next may be as long."""
        if self._firsts < FIRST_STEPS:
            return max(LEAST_S, FIRST_S)
        return max(LEAST_S, USUAL * self.usual_s, 1.5 * self._longest)


@dataclass(frozen=True)
class Stillness:
    """What looking at a suspected training again and again has shown."""

    since: float
    """From then on its main threads stood where they stand now, or it used no processor."""
    blind: bool
    """It works at something, and there is no way to see at what."""


def stage(now: float, silent_s: float, limit_s: float, seen: Stillness | None) -> Stage:
    """There are three cases:

    1. a usual silence: nothing;
    2. a longer one: suspected, and looked at until it ends;
    3. a much longer one in whose second half nothing moved, or a very long one that can't be looked into: confirmed.
    """
    if silent_s <= limit_s:
        return ""
    if seen is None:
        return "suspected"
    if seen.blind:
        return "confirmed" if silent_s >= max(BLIND_HUNG_S, 10 * limit_s) else "suspected"
    hung_s = max(HUNG_S, 2 * limit_s)
    return "confirmed" if silent_s >= hung_s and now - seen.since >= hung_s / 2 else "suspected"
