"""One controller a fleet: the lease, its generation, and what an old holder can still do (nothing)."""

from __future__ import annotations

import asyncio

import pytest
from vl_agent.head import NewerController
from vl_agent.protocol import LEASE_KEY, Lease, decode
from vl_agent.store import Unanswered

from tests.controller.world import MemoryStore, VirtualClock, World
from vl_tui.controller import lease


async def take(store: MemoryStore, clock: VirtualClock, owner: str, host: str = "here") -> lease.Held:
    return await lease.acquire(store, owner=owner, host=host, clock=clock, say=lambda line: None)


async def test_each_holder_on_one_host_takes_over_at_once_with_a_higher_generation() -> None:
    store, clock = MemoryStore({}), VirtualClock()
    assert [(await take(store, clock, f"h:{number}")).generation for number in range(3)] == [1, 2, 3]


async def test_an_old_holder_finds_out_at_its_next_renewal() -> None:
    store, clock = MemoryStore({}), VirtualClock()
    old = await take(store, clock, "h:1")
    await old.renew()
    await take(store, clock, "h:2")
    with pytest.raises(NewerController):
        await old.renew()


async def test_a_renewal_without_an_answer_is_looked_up_and_counts_as_ours() -> None:
    class Forgetful(MemoryStore):
        async def swap(self, key: str, data: bytes, version: str) -> str:
            await super().swap(key, data, version)
            raise Unanswered("lost")

    objects: dict[str, tuple[bytes, str]] = {}
    held = await take(MemoryStore(objects), VirtualClock(), "h:1")
    held._store = Forgetful(objects)
    await held.renew()
    await held.renew()
    assert decode(Lease, objects[LEASE_KEY][0]).sequence == 2


async def test_on_another_host_a_lease_is_taken_only_after_it_was_watched_unchanged_for_its_whole_term() -> None:
    store, clock = MemoryStore({}), VirtualClock()
    old = await take(store, clock, "a:1", host="a")
    standby = asyncio.create_task(take(store, clock, "b:1", host="b"))

    async def pass_s(seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            clock.now += 0.25
            for _ in range(4):
                await asyncio.sleep(0)

    await pass_s(lease.TERM_S - 2)
    await old.renew()
    await pass_s(lease.TERM_S - 2)
    assert not standby.done()
    await pass_s(6)
    assert (await standby).generation == 2


async def test_a_controller_that_was_paused_and_woken_stops_and_harms_nothing(world: World) -> None:
    await world.submit()
    await world.until(lambda: world.training(8))
    paused = world.controller
    assert paused is not None
    world.controller = None
    await world.until(lambda: world.training(20))
    world.preempt(world.holder())
    await world.until(lambda: world.head().epoch == 2)
    names = [machine.box.name for machine in world.machines.values()]

    async def woken() -> None:
        for _ in range(50):
            await paused.keepers["run"].step()

    with pytest.raises(NewerController):
        await woken()
    assert [machine.box.name for machine in world.machines.values()] == names
    for keeper in paused.keepers.values():
        await keeper.close()
    await world.until(world.quiet)
