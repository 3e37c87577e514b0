"""Invariant 7: the controller can be killed between any two actions and restarted; nothing is launched twice or
forgotten. Killed once at every point of a run's life at which it touches the world, before the touch and after."""

from __future__ import annotations

import pytest

from tests.controller.world import Crash, Gate, World

STORY_S = 200.0


async def story(world: World) -> None:
    """A run that loses one box to a notice, one to silence, and is moved once by hand; then finishes."""
    await world.submit()
    await world.until(lambda: world.training(8))
    world.preempt(world.holder(), notice_s=6)
    await world.until(lambda: world.head().epoch >= 2 and world.training(16), STORY_S)
    world.partition(world.holder())
    cut = world.holder()
    await world.until(lambda: world.head().epoch >= 3 and world.training(24), STORY_S)
    world.partition(cut, False)
    await world.intend("migrate")
    await world.until(lambda: world.head().epoch >= 4 and world.training(30), STORY_S)
    await world.until(world.quiet, STORY_S)
    assert world.head().state == "finished"


def check(world: World) -> None:
    for provider in world.providers.values():
        assert len(provider.calls) == len(set(provider.calls)), "asked for the same launch twice"
    names = [machine.box.name for machine in world.machines.values()]
    assert len(names) == len(set(names)), "two boxes of one launch"
    records = {record.name for record in world.launch_records()}
    assert set(names) <= records, "a box without a record"
    assert not world.living(), "a box was forgotten"
    assert all(world.end_record(record.number) for record in world.launch_records())


async def points() -> list[str]:
    world = World(lag_s=2.0)
    await story(world)
    trail = list(world.gate.trail)
    await world.close()
    return trail


async def test_the_story_without_a_crash_ends_well_and_has_many_points() -> None:
    trail = await points()
    assert len(trail) > 100
    for label in ("launch vl-test-run-1", "terminate vl-test-run-1", "start to", "stop to", "head.json", "end.json"):
        assert any(label in point for point in trail), label


@pytest.mark.parametrize("part", range(4))
async def test_killed_at_any_point_and_restarted_it_ends_in_the_same_place(part: int) -> None:
    trail = await points()
    # Right after one touch is right before the next, but for the calls to a provider: these are tasks of their own.
    cuts = [at for at, label in enumerate(trail) if label.startswith("after") or " at " in label]
    for crash_at in cuts[part::4]:
        world = World(crash_at=crash_at, seed=crash_at, lag_s=2.0)
        try:
            await story(world)
            assert world.controllers == 2, "it was not killed"
            check(world)
        except AssertionError as error:
            raise AssertionError(f"killed {trail[crash_at]!r} (point {crash_at}): {error}") from error
        finally:
            await world.close()


def test_a_killed_controller_touches_nothing_more() -> None:
    gate = Gate(crash_at=0)
    with pytest.raises(Crash):
        gate.point("first")
    with pytest.raises(Crash):
        gate.point("later")
