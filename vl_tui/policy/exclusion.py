"""Places not used for a while after trouble there: a weight that halves with time. Pure.

Folded from the end records of every run's launches, so that a new controller knows what the old one knew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vl_agent.protocol import LaunchEnd, LaunchEndReason, LaunchRecord

from vl_tui.domain.run import Exclusion, place_key

HALF_LIFE_S: Mapping[LaunchEndReason, float] = {
    "lost": 1200.0,
    "preempted": 900.0,
    "notice": 900.0,
    "prepare_failed": 600.0,
    "launch_failed": 300.0,
    "no_capacity": 120.0,
}
"""Reasons that speak against a place, and how long they do. The others (finished, stopped, migrated ...) do not."""

AVOIDED = 0.25
"""A place that weighs at least so much is used only when there is no other."""

_FORGOTTEN = 0.02
_RETRY_FIRST_S, _RETRY_MOST_S = 5.0, 300.0


def exclusions(ended: Iterable[tuple[LaunchRecord, LaunchEnd]], now: float) -> dict[str, Exclusion]:
    """By place, from launches that ended; ``now`` in unix seconds of the operator's side, which wrote the ends."""
    found: dict[str, Exclusion] = {}
    for record, end in sorted(ended, key=lambda pair: pair[1].ended_at):
        half_life = HALF_LIFE_S.get(end.reason)
        since = max(0.0, now - end.ended_at)
        weight = 0.0 if half_life is None else 0.5 ** (since / half_life)
        if weight < _FORGOTTEN:
            continue
        key = place_key(record.provider, record.place)
        before = found.get(key)
        failures = 1 + (before.failures if before else 0)
        heaviest = max(weight, before.weight if before else 0.0)
        found[key] = Exclusion(heaviest, failures, since, f"{end.reason.replace('_', ' ')} {_ago(since)} ago")
    return found


def retry_in_s(exclusion: Exclusion) -> float:
    """How long yet before a place in trouble is tried again where there is no other."""
    pause = min(_RETRY_MOST_S, _RETRY_FIRST_S * 2.0 ** (exclusion.failures - 1))
    return max(0.0, pause - exclusion.since_s)


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
