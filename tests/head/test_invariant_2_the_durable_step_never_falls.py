"""Invariant 2: the durable step never falls, except by a person's explicit rollback."""

from __future__ import annotations

import pytest
from vl_agent import head as heads
from vl_agent.head import Fenced, Refused

from tests.head.runs import RUN, claimed, committed, steps, submitted, uploaded
from tests.store.memory import fate_of


async def test_an_older_step_is_not_committed_over_a_newer_one() -> None:
    store = await submitted()
    mine = await claimed(store)
    await committed(store, mine, 20)
    kept = await uploaded(store, mine, 10)
    with pytest.raises(Refused, match="step 10 is older than the durable step 20"):
        await heads.commit(store, RUN, epoch=mine.epoch, holder=mine.holder, kept=kept, keep=3)
    assert await steps(store) == [20]


async def test_a_swap_that_arrives_late_finds_the_head_changed_and_does_nothing() -> None:
    store = await submitted()
    mine = await claimed(store)
    await committed(store, mine, 10)
    store.fault = fate_of("swap", "twice")
    await committed(store, mine, 20)
    await committed(store, mine, 30)
    before, _ = await heads.read(store, RUN)
    store.arrive()
    assert (await heads.read(store, RUN))[0] == before


async def test_equal_bytes_never_come_back_so_a_late_swap_can_not_match_again() -> None:
    """An S3 version is the MD5 of the bytes: pin, unpin and pin would give the first version a second life."""
    store = await submitted()
    mine = await claimed(store)
    await committed(store, mine, 10)
    versions = {(await heads.read(store, RUN))[1]}
    for pinned in (True, False, True, False):
        await heads.pin(store, RUN, step=10, pinned=pinned)
        versions.add((await heads.read(store, RUN))[1])
    assert len(versions) == 5


async def test_only_a_rollback_goes_back_and_it_fences_the_live_attempt() -> None:
    store = await submitted()
    mine = await claimed(store)
    for step in (10, 20, 30):
        await committed(store, mine, step)
    back = await heads.rollback(store, RUN, generation=1, step=20, expect_epoch=mine.epoch)
    assert back.checkpoint is not None
    assert (back.checkpoint.step, back.epoch, back.state, back.holder) == (20, mine.epoch + 1, "waiting", "")
    kept = await uploaded(store, mine, 40)
    with pytest.raises(Fenced):
        await heads.commit(store, RUN, epoch=mine.epoch, holder=mine.holder, kept=kept, keep=3)


async def test_a_rollback_can_be_taken_back_until_the_next_commit() -> None:
    store = await submitted()
    mine = await claimed(store)
    for step in (10, 20, 30):
        await committed(store, mine, step)
    back = await heads.rollback(store, RUN, generation=1, step=10, expect_epoch=mine.epoch)
    assert await steps(store) == [10, 20, 30]
    forth = await heads.rollback(store, RUN, generation=1, step=30, expect_epoch=back.epoch)
    assert forth.checkpoint is not None
    assert forth.checkpoint.step == 30
    await heads.rollback(store, RUN, generation=1, step=10, expect_epoch=forth.epoch)
    again = await claimed(store, 2)
    await committed(store, again, 15)
    assert await steps(store) == [10, 15]


async def test_a_rollback_meant_for_another_epoch_is_refused_and_asked_twice_happens_once() -> None:
    store = await submitted()
    mine = await claimed(store)
    for step in (10, 20):
        await committed(store, mine, step)
    once = await heads.rollback(store, RUN, generation=1, step=10, expect_epoch=mine.epoch)
    assert await heads.rollback(store, RUN, generation=1, step=10, expect_epoch=mine.epoch) == once
    await claimed(store, 2)
    with pytest.raises(Refused, match="not 1"):
        await heads.rollback(store, RUN, generation=1, step=10, expect_epoch=mine.epoch)
    with pytest.raises(Refused, match="no kept checkpoint has step 11"):
        await heads.rollback(store, RUN, generation=1, step=11, expect_epoch=mine.epoch + 2)
