"""What each change of the head does when asked twice, when its answer is lost, and when somebody was faster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from vl_agent import head as heads
from vl_agent.head import Refused
from vl_agent.protocol import Head, LaunchEnd, encode, head_key, launch_end_key
from vl_agent.store import Exists, StoreError

from tests.head.runs import RUN, SPEC, claimed, committed, submitted, token
from tests.store.memory import Crash, MemoryStore, fate_of

Change = Callable[[MemoryStore], Awaitable[Head]]


async def test_a_run_submitted_twice_is_one_run_and_another_of_its_name_is_refused() -> None:
    store = MemoryStore()
    first = await heads.submit(store, SPEC)
    assert await heads.submit(store, replace(SPEC, submitted_at=99.0)) == first
    with pytest.raises(Exists, match="choose another name"):
        await heads.submit(store, replace(SPEC, command="rm -rf"))


@pytest.mark.parametrize("fate", ["crash before", "crash after"])
@pytest.mark.parametrize("request_number", [1, 2])
async def test_a_submit_killed_at_any_request_is_made_good_by_the_next(fate: str, request_number: int) -> None:
    store = MemoryStore()
    left = [request_number]

    def fault(ask: object) -> str:
        left[0] -= 1
        return fate if left[0] == 0 else "ok"

    store.fault = fault  # type: ignore[assignment]
    with pytest.raises(Crash):
        await heads.submit(store, SPEC)
    store.fault = None
    assert (await heads.submit(store, SPEC)).state == "waiting"
    assert head_key(RUN) in store.memory.objects


async def started(store: MemoryStore) -> Head:
    return await token(store)


async def claimed_by_a_box(store: MemoryStore) -> Head:
    return await claimed(store)


async def reclaimed(store: MemoryStore) -> Head:
    mine = await claimed(store)
    return await heads.reclaim(store, RUN, epoch=mine.epoch, holder=mine.holder)


async def made_durable(store: MemoryStore) -> Head:
    mine = await claimed(store)
    assert await committed(store, mine, 10) == ()
    return (await heads.read(store, RUN))[0]


async def concluded(store: MemoryStore) -> Head:
    mine = await claimed(store)
    return await heads.conclude(store, RUN, epoch=mine.epoch, holder=mine.holder, state="finished", detail="done")


async def ended(store: MemoryStore) -> Head:
    return await heads.end(store, RUN, generation=1, state="stopped", detail="by a person")


async def stamped(store: MemoryStore) -> Head:
    return await heads.stamp(store, RUN, generation=7)


CHANGES = [started, claimed_by_a_box, reclaimed, made_durable, concluded, ended, stamped]


@pytest.mark.parametrize("fate", ["lost", "lost reply", "late", "twice"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_a_change_whose_answers_do_not_come_happens_once(change: Change, fate: str) -> None:
    plain, faulty = await submitted(), await submitted()
    wanted = await change(plain)
    faulty.fault = fate_of("swap", fate, times=3)  # type: ignore[arg-type]
    found = await change(faulty)
    faulty.arrive()
    there, _ = await heads.read(faulty, RUN)
    assert there == found
    assert (there.epoch, there.state, there.launch, there.sequence) == (
        wanted.epoch, wanted.state, wanted.launch, wanted.sequence,
    )  # fmt: skip


async def test_a_store_that_never_answers_is_an_error_after_a_bounded_number_of_tries() -> None:
    store = await submitted()
    store.fault = fate_of("swap", "lost", times=10_000)
    with pytest.raises(StoreError, match="could not be changed in 30 tries"):
        await heads.stamp(store, RUN, generation=2)


async def test_a_launch_that_was_given_up_gets_no_epoch() -> None:
    store = await submitted()
    await store.create(launch_end_key(RUN, 1), encode(LaunchEnd(1, "lost", "", 0.0)))
    with pytest.raises(Refused, match="launch 1 was given up"):
        await token(store, 1)
    assert (await token(store, 2)).launch == 2


async def test_a_person_takes_a_run_over_only_where_no_controller_keeps_it() -> None:
    store = MemoryStore()
    await heads.submit(store, SPEC)
    first = await heads.takeover(store, RUN)
    second = await heads.takeover(store, RUN)
    assert (first.epoch, second.epoch, second.state) == (1, 2, "running")
    await heads.stamp(store, RUN, generation=1)
    with pytest.raises(Refused, match="kept by a controller"):
        await heads.takeover(store, RUN)


async def test_an_ended_run_stays_as_it_ended() -> None:
    store = await submitted()
    done = await concluded(store)
    assert await heads.end(store, RUN, generation=1, state="stopped", detail="too late") == done


async def test_a_pin_of_a_step_that_is_not_kept_is_refused() -> None:
    store = await submitted()
    mine = await claimed(store)
    await committed(store, mine, 10)
    with pytest.raises(Refused, match="no kept checkpoint has step 11"):
        await heads.pin(store, RUN, step=11, pinned=True)
    pinned = await heads.pin(store, RUN, step=10, pinned=True)
    assert pinned.checkpoint is not None
    assert pinned.checkpoint.pinned
