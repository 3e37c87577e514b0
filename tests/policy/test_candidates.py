"""Where a run goes next, and why not elsewhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from vl_agent.protocol import LaunchEnd, LaunchEndReason, LaunchRecord, Market

from vl_tui.domain.box import Offer
from vl_tui.domain.run import Exclusion, Progress
from vl_tui.policy import budget
from vl_tui.policy.candidates import Candidate, Want, best, candidates
from vl_tui.policy.exclusion import exclusions


def offer(name: str, usd: float, market: Market = "spot", hazard: float = 0.0, boot: float = 60.0) -> Offer:
    return Offer(
        f"{name}/z/A100:1/{market}",
        name,
        "z",
        market,
        "A100:1",
        usd,
        "high",
        0.0,
        boot_s=boot,
        reclaims_per_hour=hazard,
    )


HALF_WAY = Progress(step=500, durable_step=500, total_steps=1000, s_per_step=7.2)  # one hour left


def named(found: list[Candidate]) -> list[str]:
    return [candidate.offer.provider for candidate in found if not candidate.refused]


def test_the_cheapest_to_finish_comes_first() -> None:
    found = candidates(Want("A100:1", "spot", progress=HALF_WAY), [offer("b", 2), offer("a", 1)], exclusions={})
    assert named(found) == ["a", "b"]
    cost = found[0].cost_usd
    assert cost is not None
    assert 1.0 < cost[0] < cost[1]


def test_a_cheap_place_that_is_reclaimed_all_the_time_loses_to_a_steady_one() -> None:
    offers = [offer("shaky", 1.0, hazard=12.0), offer("steady", 1.3, hazard=0.01)]
    assert named(candidates(Want("A100:1", "spot", progress=HALF_WAY), offers, exclusions={}))[0] == "steady"


def test_on_demand_is_taken_for_the_deadline_when_and_only_when_spot_would_miss_it() -> None:
    offers = [offer("spot", 1.0, hazard=3.0), offer("sure", 3.0, "on_demand")]
    relaxed = Want("A100:1", "spot", deadline_in_s=36_000, progress=HALF_WAY)
    tight = Want("A100:1", "spot", deadline_in_s=3_800, progress=HALF_WAY)
    none = Want("A100:1", "spot", progress=HALF_WAY)
    assert named(candidates(relaxed, offers, exclusions={})) == ["spot"]
    assert named(candidates(tight, offers, exclusions={}))[0] == "sure"
    assert named(candidates(none, offers, exclusions={})) == ["spot"]


def test_the_place_just_lost_is_avoided_and_taken_again_when_there_is_no_other() -> None:
    trouble = {"a/z": Exclusion(1.0, 1, since_s=6.0, why="lost 6 s ago")}
    both = candidates(Want("A100:1", "spot"), [offer("a", 1), offer("b", 9)], exclusions=trouble)
    assert named(both) == ["b"]
    assert [c.why for c in both if c.refused] == ["avoided: lost 6 s ago"]
    assert named(candidates(Want("A100:1", "spot"), [offer("a", 1)], exclusions=trouble)) == ["a"]


def test_a_place_that_fails_again_and_again_is_tried_ever_more_seldom() -> None:
    trouble = {"a/z": Exclusion(1.0, 5, since_s=6.0, why="no capacity")}
    assert named(candidates(Want("A100:1", "spot"), [offer("a", 1)], exclusions=trouble)) == []


def ended(reason: LaunchEndReason, at: float, provider: str = "a") -> tuple[LaunchRecord, LaunchEnd]:
    record = LaunchRecord(1, provider, "o", "z", "spot", "", 1.0, "n", 1, 0.0)
    return record, LaunchEnd(1, reason, "", at)


def test_exclusions_decay_until_they_are_forgotten() -> None:
    weights = [exclusions([ended("lost", 0.0)], float(now)).get("a/z") for now in (0, 1200, 2400, 20_000)]
    assert [round(found.weight, 2) if found else None for found in weights] == [1.0, 0.5, 0.25, None]


def test_ends_that_say_nothing_against_a_place_exclude_nothing() -> None:
    for reason in ("finished", "failed", "stopped", "migrated", "escalated", "superseded", "budget"):
        assert exclusions([ended(reason, 0.0)], 1.0) == {}


@given(
    usd=st.lists(st.floats(0, 50), min_size=1, max_size=6),
    left=st.none() | st.floats(0, 100),
    remaining=st.none() | st.floats(0, 1e6),
    deadline=st.none() | st.floats(-1e4, 1e6),
)
def test_whatever_is_offered_the_choice_is_affordable_and_every_refusal_has_words(
    usd: list[float], left: float | None, remaining: float | None, deadline: float | None
) -> None:
    progress = Progress() if remaining is None else Progress(0, 0, 1, remaining)
    offers = [offer(f"p{i}", price, "on_demand" if i % 2 else "spot") for i, price in enumerate(usd)]
    found = candidates(Want("A100:1", "spot", deadline, left, progress), offers, exclusions={})
    assert len(found) == len(offers)
    assert all(candidate.why for candidate in found)
    chosen = best(found)
    if chosen is not None and left is not None:
        assert budget.affordable(left, chosen.usd_hour, chosen.ready_s, progress.remaining_s)
        if chosen.cost_usd is not None:
            assert chosen.cost_usd[0] <= left
