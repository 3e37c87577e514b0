"""Which faults the demo makes, in which order and where: fixed by the seed alone. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

FaultKind = Literal["notice", "kill", "partition", "controller"]
KINDS: tuple[FaultKind, ...] = ("notice", "kill", "partition", "controller")

_FIRST, _LAST = 0.10, 0.72
"""The first fault comes after this share of the steps, the last one before that: each attempt must have room to save
once, and the last one room to finish."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    kind: FaultKind
    at_step: int | None
    """Made as soon as the run is seen at this step; None: the steps of the person's own script are not known."""
    after_saves: int
    """Where steps are not known: made once the attempt under way has made this many checkpoints durable."""
    place: float
    """0..1, which moment inside a save interval; keeps faults from always striking right after a save."""


def plan(seed: int, total_steps: int | None) -> tuple[Fault, ...]:
    """Every kind of fault once, in an order and at places that ``seed`` fixes."""
    rng = random.Random(seed)
    kinds = list(KINDS)
    rng.shuffle(kinds)
    width = (_LAST - _FIRST) / len(kinds)
    faults = []
    for index, kind in enumerate(kinds):
        fraction = _FIRST + width * (index + 0.6 * rng.random())
        step = None if total_steps is None else max(1, round(fraction * total_steps))
        faults.append(Fault(kind, step, rng.choice((1, 1, 2)), rng.random()))
    return tuple(faults)
