"""Figures as a person reads them: short, aligned, with their unit. Whatever number a box or a file told, nothing here
raises."""

from __future__ import annotations

import math
import time

_DAY_S = 86400.0


def age(seconds: float | None) -> str:
    """``40s``, ``3m``, ``1h20``, ``2d``; a dash where nothing is known."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 99.5:
        return f"{seconds:.0f}s"
    if seconds < 59.5 * 60:
        return f"{seconds / 60:.0f}m"
    if seconds < 2 * _DAY_S:
        hours, minutes = divmod(int(seconds // 60), 60)
        return f"{hours}h{minutes:02d}"
    days = seconds / _DAY_S
    return f"{days:.0f}d" if days < 9999 else "–"


def usd(amount: float | None) -> str:
    if amount is None or not math.isfinite(amount):
        return "–"
    return f"${amount:.2f}" if abs(amount) < 1000 else f"${_grouped(amount)}"


def usd_span(low: float, high: float) -> str:
    """``$0.05–0.07``; whole dollars from ten on: ``$16–19``."""
    if not math.isfinite(high):
        return "–"
    digits = 2 if high < 10 else 0
    first, second = f"{low:.{digits}f}", f"{high:.{digits}f}"
    return f"${first}" if first == second else f"${first}–{second}"


def count(number: int | None) -> str:
    """``41,880``; from a hundred thousand on ``118k``, from ten million on ``12M``."""
    if number is None:
        return "–"
    if abs(number) < 100_000:
        return f"{number:,}"
    if abs(number) < 10_000_000:
        return f"{number // 1000:,}k"
    return f"{number // 1_000_000:,}M" if abs(number) < 10**12 else "> 1e12"


def steps(number: int) -> str:
    """``1 step``, ``4 steps``."""
    return f"{count(number)} step{'s' * (number != 1)}"


def clock(at: float) -> str:
    return _local("%H:%M:%S", at)


def minute(at: float) -> str:
    return _local("%H:%M", at)


def when(at: float, now: float) -> str:
    """``16:15`` within a day, ``Fri 16h`` within a week, else the date: never longer than seven characters."""
    if at - now < 20 * 3600:
        return minute(at)
    return _local("%a %Hh" if at - now < 6 * _DAY_S else "%d %b", at) if at - now < 300 * _DAY_S else "> 300d"


def loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def pace(steps_per_s: float | None) -> str:
    """``0.9/s``; slower than one in ten seconds by the minute or hour."""
    if steps_per_s is None or not math.isfinite(steps_per_s):
        return "–"
    for factor, unit in ((1, "s"), (60, "min")):
        if steps_per_s * factor >= 0.1:
            return f"{steps_per_s * factor:.1f}/{unit}"
    return f"{steps_per_s * 3600:.1f}/h"


def local_offset_s() -> float:
    """Local time less UTC, in seconds."""
    return float(time.localtime().tm_gmtoff)


def _grouped(amount: float) -> str:
    return f"{amount:,.0f}" if abs(amount) < 1e9 else f"{amount:.1e}"


def _local(form: str, at: float) -> str:
    try:
        return time.strftime(form, time.localtime(at))
    except (OverflowError, ValueError, OSError):  # a time that no calendar has
        return "–"
