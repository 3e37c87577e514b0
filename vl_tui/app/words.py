"""Figures as a person reads them: short, aligned, with their unit."""

from __future__ import annotations

import time


def age(seconds: float | None) -> str:
    """``40s``, ``3m``, ``1h20``, ``2d``; a dash where nothing is known."""
    if seconds is None:
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 100:
        return f"{seconds:.0f}s"
    if seconds < 3600:
        return f"{seconds / 60:.0f}m"
    if seconds < 48 * 3600:
        hours, minutes = divmod(int(seconds // 60), 60)
        return f"{hours}h{minutes:02d}"
    return f"{seconds / 86400:.0f}d"


def span(low: float, high: float) -> str:
    """Two durations as a range."""
    first, second = age(low), age(high)
    return first if first == second else f"{first}–{second}"


def usd(amount: float | None) -> str:
    if amount is None:
        return "–"
    return f"${amount:.2f}" if abs(amount) < 1000 else f"${amount:,.0f}"


def usd_span(low: float, high: float) -> str:
    first, second = usd(low), usd(high)
    return first if first == second else f"{first}–{second[1:]}"


def count(number: int | None) -> str:
    """``41,880``; from a hundred thousand on ``118k``."""
    if number is None:
        return "–"
    return f"{number:,}" if number < 100_000 else f"{number // 1000:,}k"


def clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def minute(at: float) -> str:
    return time.strftime("%H:%M", time.localtime(at))


def loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def local_offset_s() -> float:
    """Local time less UTC, in seconds."""
    return float(time.localtime().tm_gmtoff)
