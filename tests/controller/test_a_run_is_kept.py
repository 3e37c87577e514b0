"""A run from its submission to its end, through every kind of loss, with the real controller in a scripted world."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.controller.world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.close()


async def finished(world: World) -> None:
    await world.until(lambda: world.head().state == "finished" and not world.living())


async def test_a_submitted_run_is_launched_trained_and_cleaned_up(world: World) -> None:
    await world.submit()
    await finished(world)
    kinds = [event.kind for event in await world.events() if event.kind != "step"]
    assert kinds.count("launched") == kinds.count("attempt") == 1
    assert world.end_record(1) is not None
    await world.until(lambda: world.controller is not None and world.controller.idle())


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
    verified = [event for event in await world.events() if event.kind == "verified"]
    assert verified[0].fields["repeated"] >= 1
    assert verified[0].fields["mismatched"] == 0
