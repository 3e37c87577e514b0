"""One controller a fleet: the lease, its generation, and what an old holder can still do (nothing)."""

from __future__ import annotations

import asyncio

import pytest
from vl_agent.head import NewerController
from vl_agent.protocol import LEASE_KEY, LaunchEnd, Lease, decode, encode, launch_end_key
from vl_agent.store import Stored, Unanswered

from tests.controller.world import MemoryStore, VirtualClock, World
from vl_tui.controller import lease
from vl_tui.controller.controller import Controller


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


@pytest.mark.parametrize("lost", ["get", "create", "the answer to create"])
async def test_a_store_that_does_not_answer_for_a_moment_is_asked_again(lost: str) -> None:
    """Whoever waits for the lease was already told that a controller comes."""

    class Silent(MemoryStore):
        times = 3

        async def get(self, key: str) -> Stored:
            self._fail("get")
            return await super().get(key)

        async def create(self, key: str, data: bytes) -> str:
            self._fail("create")
            version = await super().create(key, data)
            self._fail("the answer to create")
            return version

        def _fail(self, what: str) -> None:
            if what == lost and self.times:
                self.times -= 1
                raise Unanswered("no answer")

    store, clock = Silent({}), VirtualClock()
    taking = asyncio.create_task(take(store, clock, "h:1"))
    for _ in range(200):
        clock.now += 0.25
        await asyncio.sleep(0)
    held = await asyncio.wait_for(taking, 5)
    assert decode(Lease, (await MemoryStore(store._objects).get(LEASE_KEY)).data).owner == held.owner == "h:1"


async def test_a_lease_that_could_not_be_seen_for_a_while_is_watched_anew() -> None:
    """The holder may have renewed it all the time."""

    class Silent(MemoryStore):
        silent = False

        async def get(self, key: str) -> Stored:
            if self.silent:
                raise Unanswered("no answer")
            return await super().get(key)

    objects: dict[str, tuple[bytes, str]] = {}
    clock = VirtualClock()
    await take(MemoryStore(objects), clock, "a:1", host="a")
    store = Silent(objects)
    standby = asyncio.create_task(take(store, clock, "b:1", host="b"))
    for silent, seconds in ((False, 5), (True, lease.TERM_S), (False, lease.TERM_S - 3)):
        store.silent = silent
        for _ in range(int(seconds * 4)):
            clock.now += 0.25
            for _ in range(4):
                await asyncio.sleep(0)
        assert not standby.done()
    standby.cancel()
    await asyncio.gather(standby, return_exceptions=True)


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


async def woken(paused: Controller) -> None:
    """It goes on where it stood, until it finds out."""
    try:
        for _ in range(50):
            await paused.keepers["run"].step()
    finally:
        for keeper in paused.keepers.values():
            await keeper.close()


async def test_a_controller_that_slept_gives_up_no_launch_of_the_next_one(world: World) -> None:
    """Its clock says that the box had its time and did not answer; but it is not its box any more."""
    await world.submit()
    await world.until(lambda: bool(world.living()))
    paused = world.controller
    assert paused is not None
    world.setup_s = 200.0
    world.controller = None
    await world.advance(150)
    assert world.controllers == 2
    with pytest.raises(NewerController):
        await woken(paused)
    assert world.end_record(1) is None
    await world.until(world.training)
    assert world.head().launch == 1


async def test_a_launch_that_somebody_else_gave_up_is_not_waited_for(world: World) -> None:
    """A request of the controller before, on its way for a while: it may arrive at any time."""
    await world.submit()
    await world.until(lambda: any(machine.phase == "preparing" for machine in world.machines.values()))
    end = LaunchEnd(1, "launch_failed", "did not answer", world.clock.wall())
    await world.store.create(launch_end_key("run", 1), encode(end))
    await world.until(world.training)
    assert world.head().launch == 2
    assert [machine.launch for machine in world.living()] == [2]
    told = [event.fields for event in await world.events() if event.kind == "launch_ended"]
    assert told == [{"launch": 1, "reason": "launch_failed", "detail": "did not answer"}]


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

    with pytest.raises(NewerController):
        await woken(paused)
    assert [machine.box.name for machine in world.machines.values()] == names
    await world.until(world.quiet)
