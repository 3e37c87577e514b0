"""Values with units as people write them: durations, moments, names. Pure; each raises
``ValueError`` in plain words."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from vl_agent.protocol import RUN_NAME

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_GPU = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,39})(?::([1-9][0-9]{0,2}))?")


def duration(value: Any) -> float:
    """Seconds of ``15s``, ``5m``, ``1.5h``, ``2d``, ``250ms``."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        unit = " A unit is needed." if isinstance(value, (int, float)) and not isinstance(value, bool) else ""
        raise ValueError(f"{shown(value)} is not a duration.{unit} Write it as 15s, 5m or 2h.")
    return float(match[1]) * _SECONDS[match[2]]


def moment(value: Any) -> datetime:
    """A date and time with its offset from UTC: without one it would mean another hour on another machine."""
    example = "Write it as 2026-12-01T18:00:00+01:00 (or ...Z for UTC)."
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not a date and time. {example}")
    try:
        when = datetime.fromisoformat(value.strip())
    except ValueError:
        raise ValueError(f"{shown(value)} is not a date and time. {example}") from None
    if when.tzinfo is None:
        raise ValueError(f"{shown(value)} has no time zone. {example}")
    return when


def name(value: Any) -> str:
    """A run's or fleet's name."""
    if not isinstance(value, str) or not RUN_NAME.fullmatch(value):
        raise ValueError(
            f"{shown(value)} can't be a name. Use 1 to 40 of a-z, 0-9 and '-', beginning and ending with a letter or"
            " digit (it becomes part of box names and store keys)."
        )
    return value


def gpu(value: Any) -> str:
    """``A100`` or ``A100:8``; always returned with its count."""
    match = _GPU.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'{shown(value)} is not a GPU. Write its class and how many: "A100:1".')
    return f"{match[1]}:{match[2] or 1}"


def shown(value: Any) -> str:
    """A wrong value in an error: short, and with control characters escaped."""
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
