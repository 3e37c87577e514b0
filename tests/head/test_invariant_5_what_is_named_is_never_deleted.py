"""Invariant 5: deletion by the holder only, after the swap, never of what a kept checkpoint names; a deleted key is
never named again."""

from __future__ import annotations

import pytest
from vl_agent import head as heads
from vl_agent.head import Fenced
from vl_agent.protocol import ProtocolError, blob_key, blobs_prefix, checkpoints_prefix
from vl_agent.store import NotFound

from tests.head.runs import RUN, claimed, committed, steps, submitted, uploaded
from tests.store.memory import MemoryStore


async def keys(store: MemoryStore) -> set[str]:
    prefixes = (blobs_prefix(RUN), checkpoints_prefix(RUN))
    return {entry.key for prefix in prefixes for entry in await store.list(prefix)}


async def test_what_a_commit_drops_goes_and_what_a_kept_checkpoint_shares_with_it_stays() -> None:
    store = await submitted()
    mine = await claimed(store)
    await committed(store, mine, 10, "base", keep=2)
    await committed(store, mine, 20, "other", keep=2)
    dropped = await committed(store, mine, 30, "base", keep=2)
    assert [entry.step for entry in dropped] == [10]
    before = await keys(store)
    await heads.delete_released(store, RUN, epoch=mine.epoch, holder=mine.holder, dropped=dropped)
    assert before - await keys(store) == {dropped[0].manifest}, "its blob is also the newest checkpoint's"


@pytest.mark.parametrize("keep", [1, 2, 5])
async def test_the_first_checkpoint_of_each_so_many_steps_stays_however_often_is_saved(keep: int) -> None:
    store = await submitted()
    mine = await claimed(store)
    for step in (30, 90, 110, 170, 230, 260, 290, 310, 311):
        dropped = await committed(store, mine, step, keep=keep, keep_every=100)
        await heads.delete_released(store, RUN, epoch=mine.epoch, holder=mine.holder, dropped=dropped)
    last = [30, 90, 110, 170, 230, 260, 290, 310, 311][-keep:]
    assert await steps(store) == sorted({30, 110, 230, 310, *last})


async def test_a_pinned_checkpoint_outlives_any_number_of_commits_also_when_pinned_between_read_and_swap() -> None:
    store = await submitted()
    mine = await claimed(store)
    await committed(store, mine, 10, keep=1)
    pin_now = [True]
    swap = store.swap

    async def pinned_meanwhile(key: str, data: bytes, version: str) -> str:
        if pin_now:
            pin_now.clear()
            await heads.pin(store, RUN, step=10, pinned=True)
        return await swap(key, data, version)

    store.swap = pinned_meanwhile  # type: ignore[method-assign]
    for step in (20, 30, 40):
        dropped = await committed(store, mine, step, keep=1)
        await heads.delete_released(store, RUN, epoch=mine.epoch, holder=mine.holder, dropped=dropped)
    assert await steps(store) == [10, 40]
    head, _ = await heads.read(store, RUN)
    for entry in head.kept:
        for ref in (await heads.manifest(store, entry.manifest)).files:
            await store.get(ref.key)


async def test_who_is_fenced_between_swap_and_deletion_deletes_nothing() -> None:
    store = await submitted()
    mine = await claimed(store)
    await committed(store, mine, 10, keep=1)
    dropped = await committed(store, mine, 20, keep=1)
    await claimed(store, 2)
    before = await keys(store)
    with pytest.raises(Fenced):
        await heads.delete_released(store, RUN, epoch=mine.epoch, holder=mine.holder, dropped=dropped)
    with pytest.raises(Fenced):
        await heads.sweep(store, RUN, epoch=mine.epoch, holder=mine.holder)
    assert await keys(store) == before


async def test_the_next_holder_sweeps_what_the_one_before_left_and_nothing_of_its_own_epoch() -> None:
    store = await submitted()
    mine = await claimed(store)
    await committed(store, mine, 10, keep=1)
    await committed(store, mine, 20, keep=1)  # and dies before it deletes step 10
    await uploaded(store, mine, 30)  # and in the midst of another upload
    kept = {entry.manifest for entry in (await heads.read(store, RUN))[0].kept}
    again = await claimed(store, 2)
    own = blob_key(RUN, "f" * 64, again.epoch, 1)
    await store.put(own, b"under way")
    assert await heads.sweep(store, RUN, epoch=again.epoch, holder=again.holder) == 4
    left = await keys(store)
    assert kept < left
    assert own in left
    assert len(left) == 3


async def test_where_a_manifest_can_not_be_read_nothing_is_guessed_and_nothing_deleted() -> None:
    store = await submitted()
    mine = await claimed(store)
    await committed(store, mine, 10, keep=2)
    await committed(store, mine, 20, keep=2)
    dropped = await committed(store, mine, 30, keep=2)
    newest = (await heads.read(store, RUN))[0].kept[-1].manifest
    whole = (await store.get(newest)).data
    before = await keys(store)
    await store.put(newest, b"{")
    with pytest.raises(ProtocolError):
        await heads.delete_released(store, RUN, epoch=mine.epoch, holder=mine.holder, dropped=dropped)
    await store.delete(newest)
    again = await claimed(store, 2)
    with pytest.raises(NotFound):
        await heads.sweep(store, RUN, epoch=again.epoch, holder=again.holder)
    await store.put(newest, whole)
    assert await keys(store) == before
