"""Where a run could go next: every offer, scored by what it would cost to finish there, or why it is refused. Pure.

The controller takes the first that is not refused; the dialogs show the whole list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from vl_agent.protocol import Market

from vl_tui.domain.box import Offer
from vl_tui.domain.run import Exclusion, Progress, place_key
from vl_tui.policy import budget
from vl_tui.policy.exclusion import AVOIDED, retry_in_s
from vl_tui.policy.hazard import ASSUMED

PREPARE_S = 20.0
"""Bootstrap, working folder and prefetch, on top of a box's boot."""

ALLOWED: Mapping[Market, tuple[Market, ...]] = {
    "spot": ("spot", "owned"),
    "on_demand": ("on_demand", "owned"),
    "owned": ("owned",),
}
"""Markets a run may use, by what it asked for. Spot with a deadline: on-demand too, when nothing else is on time."""


@dataclass(frozen=True)
class Want:
    """What the run needs from its next place."""

    gpu: str
    market: Market
    deadline_in_s: float | None = None
    left_usd: float | None = None
    """Of the budget; None: no budget."""
    progress: Progress = field(default_factory=Progress)
    here: str = ""
    """Offer key of the box it has now: not a place to move to."""
    only: tuple[Market, ...] = ()
    """Not empty: these markets and no others (escalate)."""


@dataclass(frozen=True)
class Candidate:
    """One offer as a place to go on."""

    offer: Offer
    ready_s: float
    """Until training could go on there."""
    finish_s: tuple[float, float] | None
    """Seconds from now to the end: undisturbed, and with the reclaims to be expected. None: steps not known."""
    cost_usd: tuple[float, float] | None
    """From now to the end, likewise."""
    hour_usd: float
    """USD per hour of progress, reclaims counted in: the score where the end is not known."""
    late: bool = False
    """Expected to miss the deadline."""
    refused: str = ""
    """Empty: it may be taken."""

    @property
    def usd_hour(self) -> float:
        return self.offer.usd_hour

    @property
    def why(self) -> str:
        """One line: what speaks against it, or what it comes to."""
        if self.refused:
            return self.refused
        if self.cost_usd is None:
            words = f"${self.hour_usd:.3g} per hour of progress"
        else:
            words = f"${self.cost_usd[1]:.2f} to finish"
        return words + f", ready in {self.ready_s:.0f} s" + (", misses the deadline" if self.late else "")


def candidates(
    want: Want, offers: Iterable[Offer], *, exclusions: Mapping[str, Exclusion], busy: frozenset[str] = frozenset()
) -> list[Candidate]:
    """Every offer, the best first, refused ones last. Among those that may be taken: in time before late, then the
    cheapest to finish (late ones: the quickest), then the soonest ready."""
    found = [estimate(want, offer) for offer in offers]
    found = [replace(candidate, refused=_refusal(want, candidate, busy)) for candidate in found]
    found = _on_demand_only_for_the_deadline(want, found)
    found = _troubled_places_only_without_others(found, exclusions)
    return sorted(found, key=_order)


def best(found: list[Candidate]) -> Candidate | None:
    return found[0] if found and not found[0].refused else None


def estimate(want: Want, offer: Offer) -> Candidate:
    """Time and cost to finish at ``offer``. A reclaim costs a new start and half a save interval of work; so many are
    expected as its hazard says for the time that it takes."""
    hazard = offer.reclaims_per_hour or (ASSUMED["spot"] if offer.market == "spot" else 0.0)
    ready = PREPARE_S + (0.0 if offer.key == want.here else offer.boot_s)
    stretch = 1 + hazard / 3600 * (PREPARE_S + offer.boot_s + want.progress.save_every_s / 2)
    remaining = want.progress.remaining_s
    if remaining is None:
        return Candidate(offer, ready, None, None, offer.usd_hour * stretch)
    finish = (ready + remaining, ready + remaining * stretch)
    cost = (offer.usd_hour * finish[0] / 3600, offer.usd_hour * finish[1] / 3600)
    late = want.deadline_in_s is not None and finish[1] > want.deadline_in_s
    return Candidate(offer, ready, finish, cost, offer.usd_hour * stretch, late)


def _refusal(want: Want, candidate: Candidate, busy: frozenset[str]) -> str:
    offer = candidate.offer
    markets = want.only or ALLOWED[want.market] + (("on_demand",) if want.deadline_in_s is not None else ())
    if want.gpu not in ("", offer.gpu):
        return f"has {offer.gpu}, not {want.gpu}"
    if offer.market not in markets:
        return f"{offer.market.replace('_', '-')}: the run asks for {' or '.join(markets).replace('_', '-')}"
    if offer.key == want.here:
        return "it is there now"
    if offer.key in busy:
        return "in use by another run"
    if offer.available == "none":
        return offer.note or "no capacity now"
    if not budget.affordable(want.left_usd, offer.usd_hour, candidate.ready_s, want.progress.remaining_s):
        return f"${want.left_usd or 0:.2f} of the budget left: not enough for ${offer.usd_hour:g}/h"
    if want.left_usd is not None and candidate.cost_usd is not None and candidate.cost_usd[0] > want.left_usd:
        return f"${candidate.cost_usd[0]:.2f} to finish, ${want.left_usd:.2f} of the budget left"
    return ""


def _on_demand_only_for_the_deadline(want: Want, found: list[Candidate]) -> list[Candidate]:
    if want.only or want.market != "spot" or want.deadline_in_s is None:
        return found
    in_time = any(not c.refused and not c.late and c.offer.market != "on_demand" for c in found)
    if not in_time:
        return found
    words = "on-demand: not needed for the deadline"
    return [replace(c, refused=c.refused or words) if c.offer.market == "on_demand" else c for c in found]


def _troubled_places_only_without_others(
    found: list[Candidate], exclusions: Mapping[str, Exclusion]
) -> list[Candidate]:
    def trouble(candidate: Candidate) -> Exclusion | None:
        exclusion = exclusions.get(place_key(candidate.offer.provider, candidate.offer.place))
        return exclusion if exclusion and exclusion.weight >= AVOIDED else None

    others = any(not c.refused and trouble(c) is None for c in found)
    judged = []
    for candidate in found:
        exclusion = trouble(candidate)
        if candidate.refused or exclusion is None or (not others and retry_in_s(exclusion) <= 0):
            judged.append(candidate)
        else:
            judged.append(replace(candidate, refused=f"avoided: {exclusion.why}"))
    return judged


def _order(candidate: Candidate) -> tuple[bool, bool, float, float, str]:
    if candidate.finish_s is None or candidate.cost_usd is None:
        score = candidate.hour_usd
    else:
        score = candidate.finish_s[1] if candidate.late else candidate.cost_usd[1]
    return bool(candidate.refused), candidate.late, score, candidate.ready_s, candidate.offer.key
