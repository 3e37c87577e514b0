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


@dataclass(frozen=True)
class Save:
    name: str
    step: int
    took_s: float | None


def read(progress: control.ProgressReader) -> Iterator[Helper | Step | Save]:
    """What was told since the last time, so much as may be read without a pause."""
    for line in progress.more():
        told = _parse(line)
        if told is not None:
            yield told


def _parse(line: dict[str, Any]) -> Helper | Step | Save | None:
    step = _count(line.get("step"))
    if "helper" in line:
        return Helper()
    if step is None:
        return None
    if isinstance(line.get("saved"), str):
        return Save(line["saved"], step, _number(line.get("took_s")))
    return Step(step, _number(line.get("loss")), _count(line.get("total"))) if "loss" in line else None


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _MOST_STEP else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return control.finite(float(value))
    except OverflowError:
        return None
