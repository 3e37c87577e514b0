"""What a run wants of its next place, and the launch that follows from the choice. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from vl_agent.protocol import LaunchWhy, Market

from vl_tui.controller.actions import Launch
from vl_tui.domain.money import spent_usd
from vl_tui.domain.run import RunView
from vl_tui.policy.candidates import Candidate, Want


def want(run: RunView, now: float, only: tuple[Market, ...] = ()) -> Want:
    """``now`` in unix seconds. ``only``: these markets, whatever the run asked for."""
    spec = run.spec
    left = None
    if spec.budget_usd is not None:
        left = spec.budget_usd - spent_usd(((launch.record, launch.end) for launch in run.launches), now)
    deadline = None if spec.deadline is None else spec.deadline - now
    here = run.holder.record.offer if run.holder else ""
    return Want(spec.gpu, spec.market, deadline, left, run.progress, here, only)


def launch_at(chosen: Candidate, found: list[Candidate], why: LaunchWhy, intent: str = "") -> Launch:
    return Launch(chosen.offer, why, chosen.why, rejected(found, chosen), intent)


def rejected(found: list[Candidate], chosen: Candidate | None = None) -> tuple[Mapping[str, str], ...]:
    """The offers not taken and why: for the journal, so not all of a long list."""
    return tuple({"offer": other.offer.key, "why": other.why} for other in found if other is not chosen)[:20]


def secrets_missing(run: RunView) -> str:
    names = ", ".join(run.missing_secrets)
    return f"this controller has no value for {names}: submit the run from here again, or run the controller there"
