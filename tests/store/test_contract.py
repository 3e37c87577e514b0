"""What every store promises: one suite, passed by the store in memory, by a folder and by a real S3 server."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from vl_agent.store import Entry, Exists, Moved, NotFound, Store, StoreError, objects, open_store, proof, prove

from tests.store.memory import MemoryStore

PART = 5 << 20
"""The least that S3 takes as a part."""


@pytest.fixture(params=["memory", "file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "file":
        return open_store(f"file://{tmp_path}/shared")
    make: Callable[[], Store] = request.getfixturevalue("s3_store")
    return make()


async def test_what_was_put_is_read_back_with_its_version(store: Store) -> None:
    first = await store.put("a/b", b"one")
    assert (await store.get("a/b")).data == b"one"
    assert (await store.get("a/b")).version == first
    second = await store.put("a/b", b"two")
    assert second != first
    assert (await store.get("a/b")).version == second


async def test_an_empty_object_is_an_object(store: Store) -> None:
    await store.put("empty", b"")
    assert (await store.get("empty")).data == b""
    assert await store.get_range("empty", 0, 10) == b""
    assert [e.size for e in await store.list("empty")] == [0]


async def test_a_missing_key_is_not_found(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no a/b"):
        await store.get("a/b")
    with pytest.raises(NotFound):
        await store.get_range("a/b", 0, 1)
    with pytest.raises(NotFound):
        await store.get_file("a/b", tmp_path / "there", 3)


async def test_create_makes_a_key_once(store: Store) -> None:
    version = await store.create("k", b"mine")
    with pytest.raises(Exists, match="k is there already"):
        await store.create("k", b"other")
    with pytest.raises(Exists):
        await store.create("k", b"mine")
    assert (await store.get("k")).version == version


async def test_swap_writes_only_over_the_version_it_read(store: Store) -> None:
    first = await store.create("k", b"1")
    second = await store.swap("k", b"2", first)
    with pytest.raises(Moved, match="k has changed"):
        await store.swap("k", b"3", first)
    assert (await store.get("k")).data == b"2"
    await store.swap("k", b"3", second)
    assert (await store.get("k")).data == b"3"


async def test_swap_of_a_key_that_is_gone_has_moved(store: Store) -> None:
    version = await store.create("k", b"1")
    await store.delete("k")
    with pytest.raises(Moved):
        await store.swap("k", b"2", version)
    with pytest.raises(NotFound):
        await store.get("k")


async def test_of_several_at_once_one_wins(store: Store) -> None:
    created = await asyncio.gather(*(store.create("k", b"%d" % i) for i in range(4)), return_exceptions=True)
    (version,) = [one for one in created if isinstance(one, str)]
    assert sum(isinstance(one, Exists) for one in created) == 3
    swapped = await asyncio.gather(*(store.swap("k", b"s%d" % i, version) for i in range(4)), return_exceptions=True)
    assert sum(isinstance(one, str) for one in swapped) == 1
    assert sum(isinstance(one, Moved) for one in swapped) == 3


async def test_delete_twice_is_success(store: Store) -> None:
    await store.put("k", b"1")
    await store.delete("k")
    await store.delete("k")
    with pytest.raises(NotFound):
        await store.get("k")


async def test_a_deleted_key_can_be_created_again(store: Store) -> None:
    await store.create("k", b"1")
    await store.delete("k")
    await store.create("k", b"2")
    assert (await store.get("k")).data == b"2"


async def test_ranges_end_where_the_object_ends(store: Store) -> None:
    await store.put("k", b"0123456789")
    assert await store.get_range("k", 2, 5) == b"234"
    assert await store.get_range("k", 8, 50) == b"89"
    assert await store.get_range("k", 4, 4) == b""


async def test_list_is_sorted_filtered_by_prefix_and_begins_after(store: Store) -> None:
    for key in ("runs/a/2", "runs/a/10", "runs/a/1", "runs/ab/1", "runs/b/1", "other"):
        await store.put(key, b"x" * len(key))
    assert [e.key for e in await store.list("runs/a/")] == ["runs/a/1", "runs/a/10", "runs/a/2"]
    assert [e.key for e in await store.list("runs/a/", after="runs/a/10")] == ["runs/a/2"]
    assert [e.key for e in await store.list("runs/a/", after="runs/a/1")] == ["runs/a/10", "runs/a/2"]
    assert [e.key for e in await store.list("runs/a")] == ["runs/a/1", "runs/a/10", "runs/a/2", "runs/ab/1"]
    assert await store.list("nothing/") == []
    assert [(e.key, e.size) for e in await store.list("oth")] == [("other", 5)]
    assert all(isinstance(e, Entry) for e in await store.list(""))
    assert len(await store.list("")) == 6


async def test_a_listed_version_changes_with_the_content(store: Store) -> None:
    await store.put("k", b"one")
    (before,) = await store.list("k")
    await store.put("k", b"two")
    (after,) = await store.list("k")
    assert before.version != after.version


async def test_folders_are_names_one_level_down(store: Store) -> None:
    for key in ("runs/b/head.json", "runs/a/head.json", "runs/a/x/y", "runs/file", "fleet/lease.json"):
        await store.put(key, b"1")
    assert await store.folders("runs/") == ["a", "b"]
    assert await store.folders("runs/a/") == ["x"]
    assert await store.folders("") == ["fleet", "runs"]
    assert await store.folders("none/") == []


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 7])
async def test_a_file_comes_back_the_same_on_both_sides_of_the_part_size(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(objects, "PART", PART)
    monkeypatch.setattr(objects, "RANGE", PART // 2)
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(size))
    sent: list[int] = []
    await store.put_file("big/file", source, sent=sent.append)
    assert sum(sent) == size
    assert [e.size for e in await store.list("big/")] == [size]
    back.write_bytes(b"what was there before, longer or not")
    await store.get_file("big/file", back, size)
    assert back.read_bytes() == source.read_bytes()
    await store.put_file("big/file", source)  # again, over itself
    await store.get_file("big/file", back, size)
    assert back.read_bytes() == source.read_bytes()


async def test_a_file_of_another_size_than_expected_is_an_error(store: Store, tmp_path: Path) -> None:
    await store.put("k", b"0123456789")
    with pytest.raises(StoreError, match="expected"):
        await store.get_file("k", tmp_path / "back", 20)


async def test_a_source_file_that_is_not_there_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises((FileNotFoundError, NotFound)):
        await store.put_file("k", tmp_path / "none")
    assert await store.list("k") == []


async def test_keys_with_every_sign_that_the_protocol_uses(store: Store) -> None:
    key = f"runs/char-lm-2/blobs/{'0af9' * 16}-12-3"
    await store.put(key, b"1")
    assert [e.key for e in await store.list("runs/char-lm-2/blobs/")] == [key]
    assert (await store.get(key)).data == b"1"


async def test_it_proves_itself(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "ROUNDS", 1)  # SeaweedFS lets the losers of a race wait a second each
    monkeypatch.setattr(proof, "RACERS", 4)
    await prove(store)
    assert await store.list("fleet/") == []


async def test_a_listing_says_when_each_was_written_by_the_stores_own_clock(store: Store) -> None:
    began = time.time()
    await store.put("a", b"one")
    (found,) = await store.list("a")
    if isinstance(store, MemoryStore):
        assert found.modified == 0.0, "it does not know"
    else:
        assert began - 2 <= found.modified <= time.time() + 2
