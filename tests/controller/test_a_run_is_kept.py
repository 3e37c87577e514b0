"""A run from its submission to its end, through every kind of loss, with the real controller in a scripted world."""

from __future__ import annotations

import json
from typing import Any

import pytest
from vl_agent import head as heads
from vl_agent import protocol
from vl_agent.protocol import Head
from vl_agent.store import Unanswered

from tests.controller.world import Machine, ScriptedLink, World


async def finished(world: World) -> None:
    await world.until(world.quiet)
    assert world.head().state == "finished"


async def kinds(world: World) -> list[str]:
    return [event.kind for event in await world.events() if event.kind != "step"]


async def test_a_submitted_run_is_launched_trained_and_cleaned_up(world: World) -> None:
    await world.submit()
    await finished(world)
    told = await kinds(world)
    assert told.count("launched") == told.count("attempt") == told.count("run_ended") == 1
    end = world.end_record(1)
    assert end is not None
    assert end.reason == "finished"
    controller = world.controller
    assert controller is not None
    await world.until(controller.idle)


async def test_a_box_taken_without_notice_is_replaced_at_another_place(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(12))
    world.preempt(world.holder())
    await finished(world)
    first, second = world.launch_records()
    assert first.place != second.place
    assert second.why == "failover"
    end = world.end_record(1)
    assert end is not None
    assert end.reason == "preempted"


async def test_steps_done_again_are_verified_against_the_lost_attempts_losses(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(13))
    world.preempt(world.holder())
    await finished(world)
    (told,) = [event for event in await world.events() if event.kind == "verified"]
    assert told.epoch == 2
    assert told.fields["repeated"] >= 3
    assert (told.fields["mismatched"], told.fields["first_mismatch"]) == (0, None)


async def test_on_a_notice_the_next_box_is_launched_while_the_old_one_still_saves(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(12))
    old, world.drain_s = world.holder(), 4.0
    world.preempt(old, notice_s=30)
    await world.advance(2)
    assert world.head().state == "running"
    assert len(world.launch_records()) == 2
    await world.until(lambda: world.head().epoch == 2)
    assert world.clock.now < (old.noticed or 0), "the reclaim was waited for"
    head = world.head()
    assert head.checkpoint is not None
    assert head.checkpoint.step == old.step, "no step was lost"
    await finished(world)
    end = world.end_record(1)
    assert end is not None
    assert end.reason == "notice"


async def test_a_place_without_capacity_is_left_for_the_next_best_one(world: World) -> None:
    world.providers["nimbus"].full |= {"a1", "a2"}
    await world.submit()
    await finished(world)
    ends = [world.end_record(record.number) for record in world.launch_records()]
    assert [end.reason for end in ends if end] == ["no_capacity", "no_capacity", "finished"]
    assert world.launch_records()[-1].provider == "aurora"


async def test_without_any_place_the_run_waits_and_says_why_and_goes_on_when_there_is_one(world: World) -> None:
    world.providers["nimbus"].full |= {"a1", "a2"}
    world.providers["aurora"].full |= {"b1"}
    await world.submit()
    await world.advance(20)
    assert world.head().state == "waiting"
    told = [event for event in await world.events() if event.kind == "waiting"]
    assert "avoided: no capacity" in told[0].fields["why"]
    assert len(told[0].fields["rejected"]) == 4
    assert len(world.launch_records()) < 12, "it asked again and again without a pause"
    world.providers["nimbus"].full.clear()
    await finished(world)


async def test_migrate_moves_without_losing_a_step_to_the_offer_that_was_chosen(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(12))
    old = world.holder()
    intent = await world.intend("migrate", offer="aurora/b1/any/spot")
    await world.turn()
    answer = world.answer(intent)
    assert answer is not None, "it was not acted on in the very next round"
    assert answer.result == "done"
    await world.until(lambda: world.head().epoch == 2)
    head = world.head()
    assert head.checkpoint is not None
    assert head.checkpoint.step == old.step
    await finished(world)
    first, second = world.launch_records()
    assert (second.offer, second.why) == ("aurora/b1/any/spot", "migrate")
    end = world.end_record(first.number)
    assert end is not None
    assert end.reason == "migrated"


async def test_escalate_goes_to_on_demand_and_stays_there_after_a_loss(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    await world.intend("escalate")
    await world.until(lambda: world.head().epoch == 2 and world.training(20))
    assert world.launch_records()[-1].market == "on_demand"
    world.partition(world.holder())
    await world.until(lambda: world.head().epoch == 3)
    assert world.launch_records()[-1].market == "on_demand"
    end = world.end_record(1)
    assert end is not None
    assert end.reason == "escalated"


async def test_an_intent_for_an_attempt_that_is_over_is_ignored(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    intent = await world.intend("migrate", epoch=0)
    await world.turn()
    answer = world.answer(intent)
    assert answer is not None
    assert answer.result == "ignored"
    assert len(world.launch_records()) == 1


async def test_a_key_pressed_twice_moves_the_run_once(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    epoch = world.head().epoch
    await world.intend("migrate")
    await world.until(lambda: world.head().epoch == 2)
    late = await world.intend("migrate", epoch=epoch)
    await finished(world)
    answer = world.answer(late)
    assert answer is not None
    assert answer.result == "ignored"
    assert len(world.launch_records()) == 2


async def test_stop_saves_first_and_ends_the_run(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(12))
    old = world.holder()
    intent = await world.intend("stop")
    await world.until(world.quiet)
    head = world.head()
    assert head.state == "stopped"
    assert head.checkpoint is not None
    assert head.checkpoint.step == old.step
    answer = world.answer(intent)
    assert answer is not None
    assert answer.result == "done"
    assert not any(machine.alive for machine in world.machines.values())


async def test_stop_fences_a_box_that_cannot_be_told(world: World) -> None:
    world.total_steps = 500
    await world.submit()
    await world.until(lambda: world.training(12))
    old = world.holder()
    old.link_cut = True
    await world.intend("stop")
    await world.until(lambda: world.head().state == "stopped", 60)
    await world.until(lambda: old.refused_commits > 0 or not old.alive, 60)


async def test_stop_of_a_run_that_still_waits_for_its_first_box_ends_it(world: World) -> None:
    await world.submit()
    await world.advance(1)
    await world.intend("stop")
    await world.until(world.quiet)
    assert world.head().state == "stopped"


async def test_the_hard_budget_stops_the_run_before_it_is_exceeded(world: World) -> None:
    world.total_steps = 2000
    budget = 0.3 / 3600 * 400  # 400 seconds of the cheapest box; the last minute of it is the margin
    await world.submit(budget_usd=budget)
    await world.until(world.quiet, 500)
    head = world.head()
    assert head.state == "stopped"
    assert head.detail.startswith("budget")
    (ended,) = [event for event in await world.events() if event.kind == "run_ended"]
    assert 0 < ended.fields["spent_usd"] <= budget


async def test_nothing_is_launched_that_the_budget_cannot_pay(world: World) -> None:
    await world.submit(budget_usd=0.001)
    await world.advance(20)
    assert world.launch_records() == []
    (told,) = [event for event in await world.events() if event.kind == "waiting"]
    assert "budget" in told.fields["why"]


async def test_a_failed_run_is_not_tried_again(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    box = world.holder()
    box.phase = "ended"
    await heads.conclude(
        world.store, "run", epoch=box.epoch, holder=box.holder, state="failed", detail="user_error: NameError"
    )
    await world.until(world.quiet)
    assert len(world.launch_records()) == 1
    end = world.end_record(1)
    assert end is not None
    assert (end.reason, end.detail) == ("failed", "user_error: NameError")


async def test_a_command_that_dies_on_three_boxes_in_a_row_ends_the_run(world: World) -> None:
    await world.submit()
    for epoch in (1, 2, 3):
        await world.until(lambda epoch=epoch: world.head().epoch == epoch and world.training(1))  # type: ignore[misc]
        box = world.holder()
        box.phase = "ended"
        await heads.conclude(
            world.store, "run", epoch=box.epoch, holder=box.holder, state="released", detail="killed: signal 11"
        )
    await world.until(world.quiet)
    assert world.head().state == "failed"
    assert "killed: signal 11" in world.head().detail


async def test_a_missing_secret_is_named_and_nothing_is_launched_without_it(world: World) -> None:
    world.missing = ("HF_TOKEN",)
    await world.submit(secrets=("HF_TOKEN",))
    await world.advance(10)
    assert world.launch_records() == []
    (told,) = [event for event in await world.events() if event.kind == "waiting"]
    assert "HF_TOKEN" in told.fields["why"]
    world.missing = ()
    await finished(world)


async def test_a_dead_supervisor_is_started_again_in_place_as_a_new_epoch(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(12))
    box = world.holder()
    box.supervisor_dead = True
    await world.until(lambda: world.head().epoch == 2 and world.training(13))
    assert world.holder() is box
    assert len(world.launch_records()) == 1
    verdicts = [event.fields["verdict"] for event in await world.events() if event.kind == "verdict"]
    assert "supervisor_dead" in verdicts
    await finished(world)


async def test_pin_and_rollback_are_done_once_and_answered(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(17))
    pin = await world.intend("pin", step=10)
    await world.turn()
    answer = world.answer(pin)
    assert answer is not None
    assert answer.result == "done"
    assert any(kept.pinned and kept.step == 10 for kept in world.head().kept)
    rollback = await world.intend("rollback", step=10)
    await world.until(lambda: world.head().epoch == 3 and world.training(11))
    answer = world.answer(rollback)
    assert answer is not None
    assert answer.result == "done"
    wrong = await world.intend("pin", step=4711)
    await world.turn()
    answer = world.answer(wrong)
    assert answer is not None
    assert answer.result == "refused"
    await finished(world)


@pytest.mark.parametrize("again", ["the same controller", "another one"])
async def test_a_run_that_has_ended_goes_on_after_a_rollback(world: World, again: str) -> None:
    await world.submit()
    await world.until(lambda: world.training(17))
    await world.intend("stop")
    await world.until(world.quiet)
    assert world.head().state == "stopped"
    if again == "another one":
        await world.kill_controller()
        await world.turn()
    rollback = await world.intend("rollback", step=10)
    await world.until(lambda: world.training(11))
    answer = world.answer(rollback)
    assert answer is not None
    assert answer.result == "done"
    assert world.launch_records()[-1].why == "rollback"
    await finished(world)
    assert (await kinds(world)).count("run_ended") == 2, "each end is journaled"


async def test_a_run_that_failed_on_box_after_box_is_tried_anew_after_a_rollback(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(12))
    fails = True

    def failing(machine: Machine) -> bool:
        return fails and machine.step >= 12

    world.fails = failing
    await world.until(world.quiet)
    assert world.head().state == "failed"
    boxes = len(world.launch_records())
    await world.intend("rollback", step=5)
    await world.until(lambda: len(world.launch_records()) == boxes + 2)
    fails = False
    await finished(world)


async def test_an_attempt_whose_start_was_not_answered_is_journaled_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event is how a later moment knows which boxes have had an epoch."""
    start, lost = heads.start, [True]

    async def unanswered(*args: Any, **kwargs: Any) -> Head:
        head = await start(*args, **kwargs)
        if lost and lost.pop():
            raise Unanswered("memory://: no answer")
        return head

    monkeypatch.setattr(heads, "start", unanswered)
    await world.submit()
    await world.until(lambda: world.training(8))
    told = [(event.epoch, event.fields["launch"]) for event in await world.events() if event.kind == "attempt"]
    assert told == [(1, 1)]


async def test_two_runs_do_not_disturb_each_other(world: World) -> None:
    await world.submit()
    await world.submit("other")
    await world.until(lambda: world.training(8))
    world.preempt(world.holder())
    await world.until(lambda: {world.head().state, world.head("other").state} == {"finished"})
    await world.until(lambda: not world.living())
    assert len(world.launch_records("other")) == 1


async def test_a_run_whose_records_can_not_be_read_holds_up_no_other(world: World) -> None:
    await world.submit("a-bad-one")
    await world.store.put(protocol.launch_key("a-bad-one", 1), b"{")
    await world.submit()
    await finished(world)
    assert world.launch_records("run")
    told = [line for line in world.said if line.startswith("a-bad-one") and "launches/000001.json" in line]
    assert len(told) == 1, "said once, and why"
    assert world.controller is not None
    assert not world.controller.idle(), "what is not understood is not forgotten"
    await world.store.delete(protocol.launch_key("a-bad-one", 1))
    await world.until(lambda: world.head("a-bad-one").state == "finished")


async def test_a_link_that_fails_in_a_way_that_nobody_foresaw_is_said_and_made_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, failures = ScriptedLink.run, []

    async def fails_once(link: ScriptedLink) -> None:
        if not failures:
            failures.append(link)
            raise KeyError("have")
        await run(link)

    monkeypatch.setattr(ScriptedLink, "run", fails_once)
    await world.submit()
    await finished(world)
    assert len(world.launch_records()) == 1
    assert any("a fault in the link itself: KeyError" in line for line in world.said)


async def test_the_view_tells_verdict_evidence_boxes_and_offers(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    await world.advance(3)
    view = json.loads(world.objects[protocol.VIEW_KEY][0])
    run = view["runs"]["run"]
    assert run["verdict"] == "alive"
    assert {row["witness"] for row in run["evidence"]} == {"ssh", "store", "provider"}
    assert run["boxes"][0]["ssh"]["host"] == "127.0.0.1"
    assert len(view["offers"]) == 4
    assert run["decision"].startswith("submit: nimbus/a1")
