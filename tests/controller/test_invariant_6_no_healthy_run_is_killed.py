"""Invariant 6: a box is lost only on evidence: its provider says so, or its channel and its beat in the store are both
silent past the grace while the controller itself reaches the store. One link that is down kills nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from tests.controller.world import Machine, World
from vl_tui.domain.box import BoxState
from vl_tui.domain.evidence import TAKEN, Evidence, judge


async def verdicts(world: World) -> list[str]:
    return [event.fields["verdict"] for event in await world.events() if event.kind == "verdict"]


AGES = (0.0, 5.9, 6.1, 9.0, 14.9, 15.1, 40.0)
WORDS: tuple[BoxState, ...] = ("launching", "running", "unknown", *TAKEN)


def test_a_verdict_of_loss_has_the_providers_word_or_two_silent_witnesses() -> None:
    grace = 15.0
    for ssh, heard, store, word, error in itertools.product(AGES, AGES, (None, *AGES), WORDS, ("", "503")):
        seen = Evidence(ssh, min(ssh, heard), store, word, 1.0, store_error=error)
        silent = ssh > grace and (store is None or store > grace)
        assert not judge(seen, grace).lost or word in TAKEN or silent, seen


async def test_a_run_whose_ssh_link_is_down_is_left_alone(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    world.holder().link_cut = True
    await world.advance(12)
    assert await verdicts(world) == ["link_only"]
    assert world.head().epoch == 1
    assert len(world.launch_records()) == 1
    world.holder().link_cut = False
    await world.until(world.quiet)
    assert len(world.launch_records()) == 1


async def test_a_run_that_cannot_reach_the_store_is_at_risk_and_left_alone(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    world.holder().store_cut = True
    await world.advance(12)
    assert await verdicts(world) == ["at_risk"]
    assert len(world.launch_records()) == 1


async def test_a_provider_that_cannot_be_asked_proves_nothing(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    world.holder().word_cut = True
    await world.advance(15)
    assert await verdicts(world) == []
    assert len(world.launch_records()) == 1


async def test_a_box_silent_on_every_way_is_lost_after_the_grace_and_not_before(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    cut_at, cut = world.clock.now, world.holder()
    world.partition(cut)
    await world.until(lambda: len(world.launch_records()) == 2)
    assert 6.0 < world.clock.now - cut_at < 9.0
    await world.until(lambda: world.head().epoch == 2 and world.training(9))
    assert await verdicts(world) == ["lost"]
    cut.link_cut = cut.store_cut = False
    await world.until(lambda: cut.refused_commits == 1)
    assert cut.alive, "its provider can't be reached yet"
    cut.word_cut = False
    await world.until(world.quiet)
    end = world.end_record(1)
    assert end is not None
    assert end.reason == "lost"


async def test_a_box_that_comes_back_before_the_next_one_begins_keeps_its_run(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    world.partition(world.holder())
    await world.until(lambda: len(world.launch_records()) == 2)
    world.partition(world.holder(), False)
    await world.until(world.quiet)
    assert world.head().epoch == 1
    end = world.end_record(2)
    assert end is not None
    assert end.reason == "superseded"


def reach_store(world: World, reached: bool) -> None:
    """Whether the controller can; the boxes do as they did."""
    assert world.controller is not None
    world.controller.ports.store.reachable = reached  # type: ignore[attr-defined]


async def _store_out_of_reach(world: World) -> None:
    world.partition(world.holder())
    reach_store(world, False)
    await world.advance(30)
    reach_store(world, True)


async def _stalled(world: World) -> None:
    world.partition(world.holder())
    assert world.controller is not None
    pulse = asyncio.create_task(world.controller._pulse())
    await asyncio.sleep(0)  # it has looked at the clock
    world.clock.now += 60.0
    for _ in range(3):
        await asyncio.sleep(0)
    pulse.cancel()
    await asyncio.gather(pulse, return_exceptions=True)
    assert any("stood still for 60.0 s" in line for line in world.said)


@pytest.mark.parametrize("blind", [_store_out_of_reach, _stalled])
async def test_a_controller_that_could_not_hear_decides_nothing(world: World, blind: Callable[..., object]) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    await blind(world)  # type: ignore[misc]
    await world.advance(4)  # hears again, of a box that is silent: that silence is four seconds old, and no more
    world.partition(world.holder(), False)
    await world.until(world.quiet)
    assert len(world.launch_records()) == 1
    assert "lost" not in await verdicts(world)


async def test_a_box_is_not_told_to_stop_for_a_move_while_the_store_is_out_of_reach(world: World) -> None:
    """It would save, and could not make that durable; and nobody could start the next."""
    await world.submit()
    await world.until(lambda: world.training(8))
    old = world.holder()
    await world.intend("migrate")
    await world.until(lambda: any(machine.phase == "preparing" for machine in world.machines.values()))
    reach_store(world, False)
    await world.advance(8)
    assert any(machine.phase == "prepared" for machine in world.machines.values())
    assert not old.stopping
    reach_store(world, True)
    await world.until(lambda: world.head().epoch == 2 and world.training())
    assert old.stopping


async def test_a_new_controller_gives_a_silent_box_a_whole_grace(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    cut: Machine = world.holder()
    world.partition(cut)
    await world.advance(4)
    await world.kill_controller()
    began = world.clock.now
    await world.until(lambda: len(world.launch_records()) == 2)
    assert world.clock.now - began > 6.0
