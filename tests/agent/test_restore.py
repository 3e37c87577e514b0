"""Restore: whatever of a checkpoint is missing, garbled or hostile, the one before it is used, and it is said why."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vl_agent.checkpoints import files
from vl_agent.checkpoints import restore as restoring
from vl_agent.protocol import BlobRef, Manifest, encode
from vl_agent.store import StoreError, Unanswered

from tests.agent.held import Held, torch_like
from tests.store.memory import MemoryStore, fate_of


@pytest.fixture
async def held(tmp_path: Path) -> Held:
    """With a good checkpoint of step 3."""
    made = Held(tmp_path)
    await made.begin()
    await made.keep(3)
    return made


STEP_3 = {"step-3.pt": torch_like("step 3")}


async def falls_back(held: Held) -> str:
    """It does, to step 3; returns what the journal says why."""
    found = await held.restore()
    assert found.step == 3
    assert len(found.bad) == 1
    assert held.on_disk() == STEP_3, "and nothing of the bad one is left"
    (bad,) = held.told.of("bad_checkpoint")
    assert (bad["step"], bad["manifest"]) == (7, found.bad[0])
    assert held.told.of("restored")[0]["step"] == 3
    return str(bad["why"])


async def test_the_newest_is_put_into_place(held: Held) -> None:
    manifest = await held.keep(7)
    found = await held.restore()
    assert (found.step, found.source, found.bad) == (7, "store", ())
    assert held.on_disk() == {"step-7.pt": torch_like("step 7")}
    assert held.told.kinds() == ["restoring", "restored"]
    assert held.told.of("restored")[0]["bytes"] == manifest.files[0].size
    assert not (held.folder / "cache").exists(), "what was fetched is not kept twice"


# ------------------------------------------------------------------------------------------------------------- blobs


async def test_a_missing_blob(held: Held) -> None:
    manifest = await held.keep(7)
    del held.memory.objects[manifest.files[0].key]
    assert await falls_back(held) == "the blob of step-7.pt is missing"


@pytest.mark.parametrize("at", [0, -1, 40])
async def test_a_corrupt_blob(held: Held, at: int) -> None:
    manifest = await held.keep(7)
    body = bytearray(held.memory.objects[manifest.files[0].key])
    body[at] ^= 1
    held.memory.objects[manifest.files[0].key] = bytes(body)
    assert await falls_back(held) == "the blob of step-7.pt is not what was saved: its hash differs"


@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: body + b"x", lambda body: b""])
async def test_a_blob_of_another_size(held: Held, change: Callable[[bytes], bytes]) -> None:
    key = (await held.keep(7)).files[0].key
    held.memory.objects[key] = change(held.memory.objects[key])
    assert "its manifest says" in await falls_back(held)


async def test_one_of_several_files_is_missing(held: Held) -> None:
    manifest = await held.keep(7, {"step-7/weights": b"w", "step-7/optimizer": b"o"})
    del held.memory.objects[manifest.files[1].key]
    assert "step-7/optimizer" in await falls_back(held)


async def test_a_blob_that_is_deleted_between_the_look_and_the_fetch(held: Held) -> None:
    key = (await held.keep(7)).files[0].key

    class Deletes(MemoryStore):
        async def get_file(self, wanted: str, path: Path, size: int) -> None:
            self.memory.objects.pop(key, None)
            await super().get_file(wanted, path, size)

    held.store = Deletes(held.memory)
    assert "missing" in await falls_back(held)


# --------------------------------------------------------------------------------------------------------- manifests


async def test_a_missing_manifest(held: Held) -> None:
    await held.keep_manifest(7, None)
    assert await falls_back(held) == "its manifest is missing"


GARBLED = [
    b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"run": 1}', b"[" * 100_000, b'{"format": 99}', b'{"step": NaN}',
    b'{"run":"char","epoch":1,"step":7,"layout":"file","name":"x","files":[{"path":1}],"saved_at":0}',
    b'{"run":"char","epoch":1,"step":7,"layout":"file","name":"x","files":{},"saved_at":0}',
]  # fmt: skip


@pytest.mark.parametrize("body", GARBLED)
async def test_a_garbled_manifest(held: Held, body: bytes) -> None:
    await held.keep_manifest(7, body)
    assert "its manifest can't be read" in await falls_back(held)


async def test_a_huge_manifest(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "MOST_MANIFEST", 1 << 20)
    manifest = await held.keep(7, name="x" * (1 << 20))
    assert encode(manifest)
    assert await falls_back(held) == "its manifest has more than 1 MiB"


async def test_a_manifest_of_too_many_files(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "MOST_FILES", 2)
    await held.keep(7, {f"{n}.pt": b"x" for n in range(3)})
    assert await falls_back(held) == "its manifest names 3 files"


async def test_a_manifest_without_files(held: Held) -> None:
    await held.keep(7, files={"a.pt": b"a"}, run="char")
    held.told.clear()
    key = held.head.checkpoint.manifest  # type: ignore[union-attr]
    body = json.loads(held.memory.objects[key])
    held.memory.objects[key] = json.dumps({**body, "files": []}).encode()
    assert await falls_back(held) == "its manifest names 0 files"


@pytest.mark.parametrize("change", [{"run": "other"}, {"step": 8}])
async def test_another_checkpoints_manifest(held: Held, change: dict[str, Any]) -> None:
    await held.keep(7, **change)
    assert await falls_back(held) == "its manifest is another checkpoint's"


async def test_a_manifest_of_another_run(held: Held) -> None:
    await held.keep(7)
    head = await held.now()
    foreign = "runs/other/checkpoints/000000000007-1-2.json"
    held.memory.objects[foreign] = held.memory.objects[head.checkpoint.manifest]  # type: ignore[union-attr]
    entry = replace(head.kept[-1], manifest=foreign)
    held.memory.objects["runs/char/head.json"] = encode(replace(head, checkpoint=entry, kept=(head.kept[0], entry)))
    assert await falls_back(held) == "its manifest is not this run's"


async def test_blobs_of_another_run_or_none(held: Held) -> None:
    good = await held.keep(7)
    key = held.head.checkpoint.manifest  # type: ignore[union-attr]
    for foreign in ("runs/other/blobs/x-1-1", "runs/char/spec.json", "../x", "runs/char/blobs/../spec.json", ""):
        held.told.clear()
        shutil.rmtree(held.checkpoints)
        held.memory.objects[key] = encode(replace(good, files=(replace(good.files[0], key=foreign),)))
        assert "no blob of this run" in await falls_back(held), foreign


@pytest.mark.parametrize("hashed", ["", "x" * 64, "../../../../etc/passwd", "A" * 64, "0" * 63])
async def test_a_hash_that_is_none_never_becomes_a_path(held: Held, hashed: str) -> None:
    good = await held.keep(7)
    held.memory.objects[held.head.checkpoint.manifest] = encode(  # type: ignore[union-attr]
        replace(good, files=(replace(good.files[0], hash=hashed),))
    )
    assert "no blob of this run" in await falls_back(held)


OUTSIDE = [
    "", "/etc/x", "..", "../x", "a/../../x", "a/..", ".", "./../x", ".hidden", ".vl/x", "a\0b", "a\nb", "a\x1b[2J",
    "x" * 300, "a/" + "é" * 200, "//x",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
async def test_a_path_that_would_not_stay_inside(held: Held, path: str) -> None:
    await held.keep(7, {path: b"evil"})
    assert "would not stay inside" in await falls_back(held)
    assert not any(b"evil" in file.read_bytes() for file in held.folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("paths", [["a", "a"], ["a/b", "a//b"], ["a/b", "a/./b"], ["a/b", "./a/b"]])
async def test_two_files_of_one_name(held: Held, paths: list[str]) -> None:
    good = await held.keep(7)
    refs = tuple(replace(good.files[0], path=path) for path in paths)
    held.memory.objects[held.head.checkpoint.manifest] = encode(replace(good, files=refs))  # type: ignore[union-attr]
    why = await falls_back(held)
    assert "twice" in why or "inside" in why


async def test_a_file_below_another_file(held: Held) -> None:
    await held.keep(7, {"a": b"1", "a/b": b"2"})
    assert "below another file" in await falls_back(held)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab./\\~ \0\n-"), max_size=8), min_size=1, max_size=4))
def test_whatever_paths_a_manifest_names_they_stay_inside_apart_from_one_another_and_in_sight(names: list[str]) -> None:
    if files.misplaced(names):
        return
    real = [os.path.normpath(os.path.join("/folder", name)) for name in names]
    assert all(path.startswith("/folder/") for path in real)
    assert len(set(real)) == len(real)
    assert not any(other.startswith(f"{path}/") for path in real for other in real)
    assert not any(path.split("/")[2].startswith(".") for path in real)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_whatever_bytes_a_manifest_is_it_is_bad_or_right(body: bytes) -> None:
    import asyncio

    from vl_agent.protocol import Kept

    store = MemoryStore()
    key = "runs/char/checkpoints/x.json"
    good = json.loads(encode(Manifest("char", 1, 7, "file", "a", (BlobRef("a", 1, "0" * 64, "runs/char/blobs/x"),), 0)))
    chance = random.Random(body)
    field = chance.choice(list(good))
    store.memory.objects[key] = json.dumps({**good, field: body.decode("latin-1")}).encode()
    try:
        manifest = asyncio.run(restoring._manifest(store, "char", Kept(7, 1, key)))
    except restoring.Bad:
        return
    assert (manifest.run, manifest.step) == ("char", 7)


# ------------------------------------------------------------------------------------------------------ falling back


async def test_several_bad_ones_are_passed_one_by_one(held: Held) -> None:
    await held.keep_manifest(5, b"{")
    await held.keep_manifest(6, None)
    await held.keep(7)
    key = held.head.checkpoint.manifest  # type: ignore[union-attr]
    held.memory.objects[key] = b""
    found = await held.restore()
    assert (found.step, len(found.bad)) == (3, 3)
    assert [bad["step"] for bad in held.told.of("bad_checkpoint")] == [7, 6, 5]


async def test_none_left_is_a_fresh_start_and_a_loud_one(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin()
    await held.keep_manifest(5, b"{")
    found = await held.restore()
    assert (found.step, found.source) == (None, "")
    assert held.told.kinds() == ["bad_checkpoint", "warning", "restored"]
    assert "begins from nothing" in held.told.of("warning")[0]["text"]


async def test_after_a_rollback_nothing_newer_is_used(held: Held) -> None:
    from vl_agent import head as heads

    await held.keep(5)
    await held.keep(7)
    head = await heads.rollback(held.store, "char", generation=0, step=5, expect_epoch=1)
    held.memory.objects[head.checkpoint.manifest] = b""  # type: ignore[union-attr]
    assert (await held.restore()).step == 3


async def test_a_store_that_does_not_answer_is_no_bad_checkpoint(held: Held) -> None:
    """Else a moment's outage would throw work away."""
    await held.keep(7)
    for op in ("get_range", "list", "get"):
        held.store.fault = fate_of(op, "lost", key="/blobs/" if op != "get_range" else "checkpoints/")
        with pytest.raises(Unanswered):
            await held.restore()
    held.store.fault = None
    assert held.told.of("bad_checkpoint") == []
    assert (await held.restore()).step == 7


async def test_nothing_of_a_bad_checkpoint_is_named_by_the_next_commit(held: Held) -> None:
    """A corrupt blob of equal content would else be taken for one that is in the store already."""
    manifest = await held.keep(7)
    held.memory.objects[manifest.files[0].key] = b"Z" * manifest.files[0].size
    found = await held.restore()
    held.head = await held.begin()
    pipeline = held.pipeline(distrusted=found.bad)
    held.save(7)
    await held.brought(pipeline)
    shutil.rmtree(held.checkpoints)  # as on another box
    newest = await held.restore()
    assert (newest.step, newest.bad) == (7, ())


# ----------------------------------------------------------------------------------------------------- what is there


async def test_what_is_on_this_disk_already_is_not_fetched(held: Held) -> None:
    manifest = await held.keep(7)
    (held.checkpoints / "step-7.pt").write_bytes(torch_like("step 7"))
    held.store.asked.clear()
    assert (await held.restore()).source == "local"
    assert manifest.files[0].key not in [ask.key for ask in held.store.asked]


async def test_what_is_on_this_disk_with_another_content_is_moved_aside_not_used(held: Held) -> None:
    await held.keep(7)
    (held.checkpoints / "step-7.pt").write_bytes(torch_like("step 8"))
    assert (await held.restore()).source == "store"
    assert held.on_disk() == {"step-7.pt": torch_like("step 7")}


async def test_a_link_to_the_right_content_becomes_a_file(held: Held) -> None:
    """What it leads to may change under the training."""
    await held.keep(7)
    (held.folder / "elsewhere").write_bytes(torch_like("step 7"))
    (held.checkpoints / "step-7.pt").symlink_to(held.folder / "elsewhere")
    await held.restore()
    assert not (held.checkpoints / "step-7.pt").is_symlink()


async def test_a_link_in_its_place_is_not_followed(held: Held) -> None:
    await held.keep(7, {"step-7/weights": b"new"})
    elsewhere = held.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "weights").write_bytes(b"mine")
    (held.checkpoints / "step-7").symlink_to(elsewhere)
    await held.restore()
    assert (elsewhere / "weights").read_bytes() == b"mine"
    assert held.on_disk() == {"step-7/weights": b"new"}


async def test_all_else_is_moved_aside_out_of_a_scripts_sight(held: Held) -> None:
    await held.keep(7)
    (held.checkpoints / "step-9.pt").write_bytes(b"torn")
    (held.checkpoints / "latest").symlink_to("step-9.pt")
    (held.checkpoints / "folder").mkdir()
    await held.restore()
    assert list(held.on_disk()) == ["step-7.pt"]
    assert held.told.of("moved_aside") == [{"paths": ["folder", "latest", "step-9.pt"]}]
    aside = files.hidden_folder(held.checkpoints) / "aside" / "1"
    assert (aside / "step-9.pt").read_bytes() == b"torn"


async def test_what_was_moved_aside_twice_is_there_twice(held: Held) -> None:
    for content in (b"one", b"two"):
        (held.checkpoints / "step-9.pt").write_bytes(content)
        await held.restore()
    aside = files.hidden_folder(held.checkpoints) / "aside" / "1"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == {"step-9.pt": b"one", "step-9.pt~2": b"two"}


async def test_prefetched_it_is_not_fetched_again(held: Held) -> None:
    await held.keep(7)
    cache = held.folder / "cache"
    assert await restoring.prefetch(held.store, "char", await held.now(), cache) > 0
    held.store.fault = fate_of("get", "lost", key="/blobs/", times=99)
    assert (await held.restore(cache)).source == "prefetched"


async def test_a_prefetched_file_that_rotted_is_fetched_again(held: Held) -> None:
    manifest = await held.keep(7)
    cache = held.folder / "cache"
    await restoring.prefetch(held.store, "char", await held.now(), cache)
    (cache / manifest.files[0].hash).write_bytes(b"r" * manifest.files[0].size)
    assert (await held.restore(cache)).source == "store"
    assert held.on_disk() == {"step-7.pt": torch_like("step 7")}


async def test_prefetching_a_bad_one_says_nothing_yet(held: Held) -> None:
    await held.keep_manifest(7, b"{")
    assert await restoring.prefetch(held.store, "char", await held.now(), held.folder / "cache") == 0


async def test_equal_files_of_a_checkpoint_come_from_one_blob(held: Held) -> None:
    await held.keep(7, {"a/x": b"same", "a/y": b"same", "b": b"other"})
    assert (await held.restore()).step == 7
    assert held.on_disk() == {"a/x": b"same", "a/y": b"same", "b": b"other"}


# --------------------------------------------------------------------------------------------------------------- room


async def test_no_room_is_said_before_a_byte_is_fetched_and_throws_no_checkpoint_away(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    await held.keep(7)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 10))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="No space left") as failed:
        await held.restore()
    assert failed.value.errno == errno.ENOSPC
    assert failed.value.filename == str(held.folder / "cache")
    assert held.told.of("bad_checkpoint") == []
    assert not any(ask.op == "get" and "/blobs/" in ask.key for ask in held.store.asked)


async def test_a_box_without_room_ends_its_attempt_in_words(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    await held.keep(7)
    await held.begin("touch began")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 10))  # type: ignore[attr-defined]
    ended = await held.attempt().run("box-1")
    assert ended.cause == "host_fault"
    assert ended.detail == f"{held.folder / 'cache'}: No space left on device"
    head = await held.now()
    assert (head.state, head.checkpoint.step) == ("released", 7)  # type: ignore[union-attr]
    assert not (held.work / "began").exists()


async def test_a_store_error_while_fetching_leaves_nothing_half_in_place(held: Held) -> None:
    await held.keep(7, {"step-7/a": b"a" * 100, "step-7/b": b"b" * 100})

    class Stops(MemoryStore):
        fetched = 0

        async def get_file(self, key: str, path: Path, size: int) -> None:
            self.fetched += 1
            if self.fetched == 2:
                path.write_bytes(b"b" * 50)
                raise StoreError("memory: stopped half way.")
            await super().get_file(key, path, size)

    good, held.store = held.store, Stops(held.memory)
    with pytest.raises(StoreError):
        await held.restore()
    assert held.on_disk() == {}, "no script sees half a checkpoint"
    held.store = good
    assert (await held.restore()).step == 7
    assert held.on_disk() == {"step-7/a": b"a" * 100, "step-7/b": b"b" * 100}
