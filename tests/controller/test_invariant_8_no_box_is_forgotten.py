"""Invariant 8: a box that no live attempt needs is terminated, also when its launch call was never answered."""

from __future__ import annotations

from dataclasses import replace

from vl_agent.protocol import encode, launch_key

from tests.controller.world import FLEET, World
from vl_tui.domain.box import Box
from vl_tui.providers.base import Launch


async def test_a_launch_whose_reply_was_lost_is_found_by_name_and_not_doubled() -> None:
    world = World(lag_s=3.0)
    world.providers["nimbus"].unsure_once.add("lost")
    await world.submit()
    await world.until(world.quiet)
    assert [machine.box.name for machine in world.machines.values()] == [f"vl-{FLEET}-run-1"]
    await world.close()


async def test_a_box_that_is_not_listed_yet_is_not_taken_for_gone() -> None:
    """Its reply was lost and the run is stopped: it is given up before its provider lists it."""
    world = World(lag_s=20.0)
    world.providers["nimbus"].unsure_once.add("lost")
    await world.submit()
    await world.until(lambda: bool(world.machines))
    await world.intend("stop")
    await world.until(lambda: world.end_record(1) is not None)
    (box,) = world.machines.values()
    while box.alive:
        assert not [event for event in await world.events() if event.kind == "terminated"]
        await world.advance(0.5)
    await world.until(world.quiet)
    await world.close()


async def test_boxes_are_gone_when_the_run_has_ended_whatever_happened(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    world.partition(world.holder())
    await world.until(lambda: world.head().state == "finished")
    for machine in world.machines.values():
        world.partition(machine, False)
    await world.until(world.quiet)
    assert len(world.machines) == 2


def stray(world: World, *, fleet: str = FLEET, run: str = "run", number: int = 77) -> Box:
    offer = (world.providers["aurora"]._offers)[0]
    tags = {"vl-fleet": fleet, "vl-run": run, "vl-launch": str(number)}
    return world.machine("aurora", Launch(f"vl-{fleet}-{run}-{number}", offer, tags, "")).box


async def test_a_box_of_ours_without_a_record_is_ended_and_its_number_given_up_first(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(4))
    box = stray(world)
    await world.until(lambda: not world.machines[box.id].alive, 30)
    end = world.end_record(77)
    assert end is not None, "a termination without an end record"
    assert world.head().epoch == 1


async def test_a_box_of_a_run_that_is_not_in_the_store_is_ended(world: World) -> None:
    await world.submit()
    box = stray(world, run="never-heard-of", number=1)
    await world.until(lambda: not world.machines[box.id].alive, 30)


async def test_a_box_of_another_fleet_is_not_touched(world: World) -> None:
    await world.submit()
    box = stray(world, fleet="other")
    await world.until(lambda: world.head().state == "finished")
    await world.advance(20)
    assert world.machines[box.id].alive


async def test_a_box_that_appears_after_it_was_given_up_is_ended(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    world.preempt(world.holder())
    await world.until(lambda: world.head().epoch == 2)
    record = world.launch_records()[0]
    late = stray(world, number=record.number)
    await world.until(lambda: not world.machines[late.id].alive, 30)


async def test_a_box_whose_record_stands_is_left_to_the_keeper_of_its_run(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(4))
    record = replace(world.launch_records()[0], number=78, name=f"vl-{FLEET}-run-78")
    await world.store.create(launch_key("run", 78), encode(record))
    box = stray(world, number=78)
    controller = world.controller
    assert controller is not None
    for _ in range(3):
        await world.advance(5)
        await controller.sweep.round()
    assert world.machines[box.id].alive
