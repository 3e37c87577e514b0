"""What a run wants of its next place, and the launch that follows from the choice. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from vl_agent.protocol import LaunchRecord, LaunchWhy, Market

from vl_tui.controller.actions import Launch
from vl_tui.domain.money import spent_usd
from vl_tui.domain.run import Exclusion, Facts, LaunchView, RunView, place_key
from vl_tui.policy.candidates import Candidate, Want

_LONG_AGO_S = 3600.0
"""The place is no reason to wait where there is no other."""


def want(run: RunView, now: float, only: tuple[Market, ...] = ()) -> Want:
    """``now`` in unix seconds. ``only``: these markets, whatever the run asked for."""
    spec = run.spec
    left = None
    if spec.budget_usd is not None:
        left = spec.budget_usd - spent_usd(((launch.record, launch.end) for launch in run.launches), now)
    deadline = None if spec.deadline is None else spec.deadline - now
    holder = run.holder
    here = holder.record.offer if holder is not None and not _going(holder) else ""
    return Want(spec.gpu, spec.market, deadline, left, run.progress, here, only)


def avoided(run: RunView, facts: Facts) -> Mapping[str, Exclusion]:
    """Places in trouble, that of a box which is lost or will be taken included, though its end is not written yet:
    there again only when there is no other."""
    holder = run.holder
    if holder is None or not _going(holder):
        return facts.exclusions
    why = "its provider takes the box there" if holder.noticed else "the box there is lost"
    key = place_key(holder.record.provider, holder.record.place)
    return {**facts.exclusions, key: Exclusion(1.0, 1, _LONG_AGO_S, why)}


def _going(holder: LaunchView) -> bool:
    return holder.verdict.lost or holder.noticed


def launch_at(chosen: Candidate, found: list[Candidate], why: LaunchWhy, intent: str = "") -> Launch:
    return Launch(chosen.offer, why, chosen.why, rejected(found, chosen), intent)


def rejected(found: list[Candidate], chosen: Candidate | None = None) -> tuple[Mapping[str, str], ...]:
    """The offers not taken and why: for the journal, so not all of a long list."""
    return tuple({"offer": other.offer.key, "why": other.why} for other in found if other is not chosen)[:20]


def at(record: LaunchRecord) -> str:
    """Where a box is, for a person: ``nimbus east, on-demand``."""
    return f"{record.provider} {record.place}, {record.market.replace('_', '-')}"


def secrets_missing(run: RunView) -> str:
    names = ", ".join(run.missing_secrets)
    return f"this controller has no value for {names}: submit the run from here again, or run the controller there"
