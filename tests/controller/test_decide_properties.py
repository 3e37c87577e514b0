"""What ``decide`` never does, whatever it is shown: thousands of views, likely and unlikely."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from vl_agent.protocol import (
    Beat,
    CheckpointPolicy,
    Head,
    HeadState,
    Intent,
    Kept,
    LaunchEnd,
    LaunchEndReason,
    LaunchRecord,
    Market,
    Phase,
    RunSpec,
)

from vl_tui.controller.actions import Action, Ask, End, EndLaunch, Launch, Start, Terminate, Wait
from vl_tui.controller.decide import decide
from vl_tui.domain.box import Box, Offer
from vl_tui.domain.evidence import ALIVE, Verdict
from vl_tui.domain.run import Facts, LaunchView, RunView

NOW = 10_000.0
PLACES: list[tuple[str, Market, float]] = [("a", "spot", 1.0), ("b", "spot", 2.0), ("c", "on_demand", 4.0)]
OFFERS = [
    Offer(f"p/{place}/any/{market}", "p", place, market, "any", usd, "high", 0.0, boot_s=5.0)
    for place, market, usd in PLACES
]

REASONS: list[LaunchEndReason] = ["lost", "finished", "failed", "no_capacity", "notice", "prepare_failed"]
PHASES: list[Phase] = ["preparing", "prepared", "training", "draining", "ended"]
STATES: list[HeadState] = ["waiting", "starting", "running", "released", "finished", "failed", "stopped"]
VERDICTS = [
    ALIVE,
    Verdict("suspect", "unknown", "s"),
    Verdict("link_only", "link_only", "l"),
    Verdict("at_risk", "unknown", "r"),
    Verdict("supervisor_dead", "host_fault", "d"),
    Verdict("lost", "host_fault", "silent"),
    Verdict("lost", "preempted", "taken", final=True),
]


@st.composite
def launches(draw: st.DrawFn, number: int) -> LaunchView:
    offer = draw(st.sampled_from(OFFERS))
    record = LaunchRecord(
        number, "p", offer.key, offer.place, offer.market, "any", offer.usd_hour, f"vl-f-run-{number}", 1,
        NOW - draw(st.floats(0, 500)), draw(st.sampled_from(["submit", "failover", "migrate", "escalate"])),
    )  # fmt: skip
    reason = draw(st.sampled_from(REASONS))
    end = LaunchEnd(number, reason, "d", NOW) if draw(st.booleans()) else None
    phase = draw(st.sampled_from(PHASES))
    beat = Beat(1, number, draw(st.integers(0, 4)), phase, notice_deadline=draw(st.none() | st.just(NOW)))
    box = Box(f"id{number}", record.name, "a", "spot", "running", 1.0, 0.0)
    return LaunchView(
        record,
        end,
        fresh=draw(st.booleans()),
        asked=draw(st.sampled_from(["no", "asking", "unsure", "answered", "refused"])),
        no_capacity=draw(st.booleans()),
        boxes=draw(st.sampled_from([(), (box,), (box, replace(box, id="twin"))])),
        settled=draw(st.booleans()),
        age_s=draw(st.floats(0, 300)),
        boot_s=5.0,
        verdict=draw(st.sampled_from(VERDICTS)),
        attached=draw(st.booleans()),
        beat=draw(st.sampled_from([None, beat])),
        stopping_s=draw(st.none() | st.floats(0, 400)),
        starting_s=draw(st.floats(0, 100)),
        relinked_s=draw(st.none() | st.floats(0, 100)),
        epochless_s=draw(st.floats(0, 10)),
        ended_s=None if end is None else draw(st.floats(0, 30)),
        terminated=end is not None and draw(st.booleans()),
    )


@st.composite
def views(draw: st.DrawFn) -> RunView:
    many = draw(st.integers(0, 4))
    found = tuple(draw(launches(number)) for number in range(1, many + 1))
    state = draw(st.sampled_from(STATES))
    holder = draw(st.sampled_from(["", "token", "token/nonce"]))
    kept = draw(st.none() | st.builds(Kept, st.integers(1, 50), st.integers(1, 4), st.just("m")))
    head = Head(
        draw(st.integers(0, 5)), holder, 1, draw(st.integers(0, many)), state, kept, (), 1, "n",
        draw(st.sampled_from(["", "notice: saved", "stopped: saved", "killed: 11"])),
    )  # fmt: skip
    actions = st.sampled_from(["migrate", "escalate", "stop", "pin", "rollback"])
    intents = draw(st.lists(st.builds(lambda a, e: Intent("i", "run", e, a), actions, st.integers(0, 5)), max_size=2))
    budget = draw(st.none() | st.floats(0, 3))
    return RunView(
        RunSpec("run", "f", "true", CheckpointPolicy("c"), gpu="", budget_usd=budget),
        head,
        found,
        intents=tuple(intents),
        attempted=draw(st.integers(0, many)),
        missing_secrets=draw(st.sampled_from([(), ("TOKEN",)])),
        no_launch_for_s=draw(st.sampled_from([0.0, 3.0])),
        stop_wanted_s=draw(st.none() | st.floats(0, 400)),
    )


def decided(view: RunView, *, reached: bool = True) -> list[Action]:
    return decide(view, Facts(store_reached=reached, offers=OFFERS), NOW)


@settings(max_examples=600, deadline=None)
@given(views())
def test_no_view_makes_it_break_a_rule(view: RunView) -> None:
    actions = decided(view)
    by_number = {launch.number: launch for launch in view.launches}
    starts = [action for action in actions if isinstance(action, Start)]
    launched = [action for action in actions if isinstance(action, Launch)]

    assert len(starts) <= 1
    assert len(launched) <= 1
    for start in starts:
        launch = by_number[start.launch]
        assert launch.live, "an epoch for a box that was given up"
        assert launch.prepared
        holder = view.holder
        over = holder is None or holder.verdict.lost or holder.number == start.launch
        assert over or (holder is not None and (holder.stopping_s or 0) > 300), "an epoch while the old attempt trains"
    for action in actions:
        if isinstance(action, Terminate):
            assert by_number[action.launch].end is not None, "a box is ended before its end record stands"
        if isinstance(action, EndLaunch):
            assert by_number[action.launch].end is None
        if isinstance(action, Ask):
            assert by_number[action.launch].live
    if launched:
        assert not view.ended
        assert not view.missing_secrets
        assert not any(isinstance(action, (Start, End)) for action in actions)
    if view.ended:
        assert not any(isinstance(action, (Launch, Ask, Start, End)) for action in actions)
    assert actions == decided(view), "the same view, another decision"


@settings(max_examples=300, deadline=None)
@given(views())
def test_with_the_store_out_of_reach_nothing_is_done(view: RunView) -> None:
    (only,) = decided(view, reached=False)
    assert isinstance(only, Wait)


@settings(max_examples=500, deadline=None)
@given(views())
def test_a_healthy_attempt_is_ended_by_nobody_but_a_person_or_the_budget(view: RunView) -> None:
    holder = view.holder
    if holder is None or view.head.state != "running" or view.intents or view.spec.budget_usd is not None:
        return
    if holder.verdict.name not in ("alive", "suspect", "link_only", "at_risk") or holder.epochless_s > 3:
        return
    for action in decided(view):
        assert not (isinstance(action, EndLaunch) and action.launch == holder.number)
        assert not isinstance(action, End)
