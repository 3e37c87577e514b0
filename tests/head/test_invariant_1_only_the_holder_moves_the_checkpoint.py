"""Invariant 1: the epoch never falls; only the holder of the head's epoch may move its checkpoint."""

from __future__ import annotations

import pytest
from vl_agent import head as heads
from vl_agent.head import Fenced, NewerController, Refused
from vl_agent.protocol import Kept

from tests.head.runs import RUN, claimed, committed, submitted, token, uploaded


async def test_a_box_whose_epoch_is_over_moves_nothing_and_is_told_who_holds_the_run() -> None:
    store = await submitted()
    old = await claimed(store, 1)
    await committed(store, old, 10)
    kept = await uploaded(store, old, 20)
    new = await claimed(store, 2)
    with pytest.raises(Fenced, match="epoch 2") as told:
        await heads.commit(store, RUN, epoch=old.epoch, holder=old.holder, kept=kept, keep=3)
    head, _ = await heads.read(store, RUN)
    assert head == told.value.head == new
    assert head.checkpoint is not None
    assert head.checkpoint.step == 10


async def test_fenced_from_the_moment_of_the_start_not_only_of_the_claim() -> None:
    store = await submitted()
    old = await claimed(store, 1)
    kept = await uploaded(store, old, 10)
    await token(store, 2)
    with pytest.raises(Fenced):
        await heads.commit(store, RUN, epoch=old.epoch, holder=old.holder, kept=kept, keep=3)


async def test_the_right_epoch_with_another_holder_is_not_enough() -> None:
    store = await submitted()
    mine = await claimed(store)
    kept = await uploaded(store, mine, 10)
    for holder in ("", mine.holder.partition("/")[0], mine.holder + "0"):
        with pytest.raises(Fenced):
            await heads.commit(store, RUN, epoch=mine.epoch, holder=holder, kept=kept, keep=3)


async def test_of_two_boxes_with_one_token_one_wins() -> None:
    store = await submitted()
    given = await token(store)
    won = await heads.claim(store, RUN, epoch=given.epoch, token=given.holder)
    with pytest.raises(Fenced):
        await heads.claim(store, RUN, epoch=given.epoch, token=given.holder)
    assert (await heads.read(store, RUN))[0] == won


async def test_a_box_that_has_said_its_last_word_commits_no_more() -> None:
    store = await submitted()
    mine = await claimed(store)
    kept = await uploaded(store, mine, 10)
    await heads.conclude(store, RUN, epoch=mine.epoch, holder=mine.holder, state="released", detail="notice")
    with pytest.raises(Fenced):
        await heads.commit(store, RUN, epoch=mine.epoch, holder=mine.holder, kept=kept, keep=3)


async def test_a_box_that_starts_again_by_itself_only_follows_its_own_claim() -> None:
    store = await submitted()
    mine = await claimed(store)
    again = await heads.reclaim(store, RUN, epoch=mine.epoch, holder=mine.holder)
    assert (again.epoch, again.state) == (mine.epoch + 1, "running")
    with pytest.raises(Fenced):  # a copy of its disk woke up too
        await heads.reclaim(store, RUN, epoch=mine.epoch, holder=mine.holder)
    await claimed(store, 2)
    with pytest.raises(Fenced):
        await heads.reclaim(store, RUN, epoch=again.epoch, holder=again.holder)


async def test_a_controller_that_was_paused_changes_nothing_after_the_next_one_has_come() -> None:
    store = await submitted()
    mine = await claimed(store)
    before = await heads.stamp(store, RUN, generation=2)
    with pytest.raises(NewerController):
        await heads.start(store, RUN, launch=2, generation=1, expect_epoch=mine.epoch)
    with pytest.raises(NewerController):
        await heads.end(store, RUN, generation=1, state="stopped", detail="")
    with pytest.raises(NewerController):
        await heads.rollback(store, RUN, generation=1, step=1, expect_epoch=mine.epoch)
    with pytest.raises(NewerController):
        await heads.stamp(store, RUN, generation=1)
    assert (await heads.read(store, RUN))[0] == before


async def test_a_start_decided_on_an_older_epoch_is_refused() -> None:
    store = await submitted()
    mine = await claimed(store)
    again = await heads.reclaim(store, RUN, epoch=mine.epoch, holder=mine.holder)
    with pytest.raises(Refused, match="epoch 2, not 1"):  # the box came back by itself: its run is healthy
        await heads.start(store, RUN, launch=2, generation=1, expect_epoch=mine.epoch)
    assert (await heads.read(store, RUN))[0] == again


async def test_what_ends_a_run_fences_what_still_trains() -> None:
    store = await submitted()
    mine = await claimed(store)
    ended = await heads.end(store, RUN, generation=1, state="stopped", detail="by a person")
    assert (ended.epoch, ended.holder) == (mine.epoch + 1, "")
    with pytest.raises(Fenced):
        await heads.commit(
            store, RUN, epoch=mine.epoch, holder=mine.holder, kept=Kept(1, mine.epoch, "manifest"), keep=3
        )
    with pytest.raises(Refused, match="has stopped"):
        await heads.start(store, RUN, launch=2, generation=1, expect_epoch=ended.epoch)
