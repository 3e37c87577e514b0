"""What a run has cost: box-hours at the price they were chosen for. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from vl_agent.protocol import LaunchEnd, LaunchRecord


def spent_usd(launches: Iterable[tuple[LaunchRecord, LaunchEnd | None]], now: float) -> float:
    """USD from each launch's record to its end, or to ``now`` (unix seconds of the operator's side, which wrote both).
    A box that never came is counted for as long as it was waited for: the estimate errs on the high side."""
    total = 0.0
    for record, end in launches:
        until = now if end is None else end.ended_at
        total += record.usd_hour * max(0.0, until - record.created_at) / 3600
    return total


def burning_usd_hour(launches: Iterable[tuple[LaunchRecord, LaunchEnd | None]]) -> float:
    """USD per hour of the boxes that have not been given up."""
    return sum(record.usd_hour for record, end in launches if end is None)
