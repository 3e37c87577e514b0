"""What the training told (``vl_agent.control``), checked: anything may write into that file, nothing is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vl_agent import control

_MOST_STEP = 10**12
"""Steps have twelve digits in the store's keys."""


@dataclass(frozen=True)
class Helper:
    """A helper is there: it saves and stops when it is told to."""


@dataclass(frozen=True)
class Step:
    step: int
    loss: float | None
    """Exact; None when it is not known or no finite number."""
    total: int | None
    nonfinite: str = ""
    """nan, inf or -inf, where the loss is known to be that."""


@dataclass(frozen=True)
class Save:
    name: str
    step: int
    took_s: float | None
    stall_s: float | None = None
    """How long the training stood still for it."""


@dataclass(frozen=True)
class Skipped:
    """A save that was due and will not come."""

    step: int
    why: str


@dataclass(frozen=True)
class Stopped:
    """It has saved this step and ends, as it was told to."""

    step: int


Word = Helper | Step | Save | Skipped | Stopped


def read(progress: control.ProgressReader) -> Iterator[Word]:
    """What was told since the last time, so much as may be read without a pause."""
    for line in progress.more():
        told = _parse(line)
        if told is not None:
            yield told


def _parse(line: dict[str, Any]) -> Word | None:
    step = _count(line.get("step"))
    if "helper" in line:
        return Helper()
    if (stopped := _count(line.get("stopped"))) is not None:
        return Stopped(stopped)
    if (skipped := _count(line.get("skipped"))) is not None:
        return Skipped(skipped, str(line.get("why") or "")[:200])
    if step is None:
        return None
    if isinstance(line.get("saved"), str):
        return Save(line["saved"], step, _number(line.get("took_s")), _number(line.get("stall_s")))
    if "loss" not in line:
        return None
    nonfinite = line.get("nonfinite")
    known = nonfinite if isinstance(nonfinite, str) and nonfinite in ("nan", "inf", "-inf") else ""
    return Step(step, None if known else _number(line["loss"]), _count(line.get("total")), known)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _MOST_STEP else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return control.finite(float(value))
    except OverflowError:
        return None
