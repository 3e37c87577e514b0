"""Losses an hour: the provider's word at first, what was met there more and more."""

from __future__ import annotations

import pytest
from vl_agent.protocol import LaunchEnd, LaunchEndReason, LaunchRecord, Market

from vl_tui.domain.box import Offer
from vl_tui.policy.hazard import ASSUMED, assumed, losses_per_hour


def offer(market: Market = "spot", told: float = 0.0, provider: str = "aws") -> Offer:
    return Offer("key", provider, "place", market, "A100", 1.0, "high", 0.0, reclaims_per_hour=told)


def launch(
    hours: float, reason: LaunchEndReason | None, *, provider: str = "aws"
) -> tuple[LaunchRecord, LaunchEnd | None]:
    record = LaunchRecord(1, provider, "key", "place", "spot", "A100", 1.0, "name", 1, 0.0)
    return record, None if reason is None else LaunchEnd(1, reason, "", hours * 3600)


def test_before_anything_was_met_it_is_what_the_provider_tells_or_the_market_assumes() -> None:
    assert losses_per_hour(offer(told=0.4), [], 0.0) == pytest.approx(0.4)
    assert losses_per_hour(offer(), [], 0.0) == pytest.approx(ASSUMED["spot"])
    assert assumed(offer("on_demand")) < assumed(offer("owned")) < assumed(offer())


def test_losses_met_raise_it_and_quiet_hours_lower_it() -> None:
    before = losses_per_hour(offer(told=0.1), [], 0.0)
    assert losses_per_hour(offer(told=0.1), [launch(1, "preempted"), launch(2, "notice")], 0.0) > 1.5 * before
    assert losses_per_hour(offer(told=0.1), [launch(30, "migrated")], 0.0) < before
    assert losses_per_hour(offer(told=0.1), [launch(0, None)], 50 * 3600.0) < before, "hours of a box that lives count"


def test_with_many_hours_it_comes_near_to_what_was_met() -> None:
    met = [launch(2, "preempted")] * 100
    assert losses_per_hour(offer(told=0.01), met, 0.0) == pytest.approx(0.5, rel=0.5)
    assert losses_per_hour(offer(told=0.01), [launch(2, "lost", provider="gcp")] * 100, 0.0) == pytest.approx(0.01)
