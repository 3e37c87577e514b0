"""How often a box at a place is lost: what its provider tells, corrected by what this run has met there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vl_agent.protocol import LaunchEnd, LaunchRecord, Market

from vl_tui.domain.box import Offer

ASSUMED: Mapping[Market, float] = {"spot": 0.05, "on_demand": 0.001, "owned": 0.002}
"""Losses an hour where the provider tells none: a spot box in 20 hours, other machines in some weeks."""
WEIGHT = 2.0
"""The assumption counts as much as so many losses that were met (the shape of a Gamma prior)."""

LOSSES = ("lost", "preempted", "notice")


def assumed(offer: Offer) -> float:
    """Losses an hour, before anything was met."""
    if offer.market == "spot":
        return offer.reclaims_per_hour or ASSUMED["spot"]
    return offer.reclaims_per_hour + ASSUMED[offer.market]


def losses_per_hour(offer: Offer, launches: Iterable[tuple[LaunchRecord, LaunchEnd | None]], now: float) -> float:
    """The mean of the posterior: ``launches`` at the same provider and market, with their hours and losses. ``now`` in
    unix seconds."""
    hours, losses = 0.0, 0
    for record, end in launches:
        if (record.provider, record.market) == (offer.provider, offer.market):
            until = now if end is None else end.ended_at
            hours += max(0.0, until - record.created_at) / 3600
            losses += end is not None and end.reason in LOSSES
    return (WEIGHT + losses) / (WEIGHT / assumed(offer) + hours)
