"""The hard budget: a run is stopped before it costs more than the person allowed. Pure."""

from __future__ import annotations

MARGIN_S = 60.0
"""A run is told to save and stop when its boxes could go on for only so long yet."""

LEAST_WORK_S = 300.0
"""A box is worth launching only if the budget pays its start and so much training, or all that is left of it."""


def exhausted(budget_usd: float | None, spent_usd: float, usd_hour: float) -> bool:
    """Whether boxes that burn ``usd_hour`` reach the budget within the margin."""
    if budget_usd is None or usd_hour <= 0:
        return False
    return spent_usd + usd_hour * MARGIN_S / 3600 >= budget_usd


def affordable(left_usd: float | None, usd_hour: float, ready_s: float, remaining_s: float | None) -> bool:
    """Whether ``left_usd`` pays a box of ``usd_hour`` for its start and a stretch of work worth having."""
    if left_usd is None or usd_hour <= 0:
        return True
    work = LEAST_WORK_S if remaining_s is None else min(LEAST_WORK_S, remaining_s)
    return usd_hour * (ready_s + work + MARGIN_S) / 3600 <= left_usd
