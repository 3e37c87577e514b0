"""Large files are blobs of one part each: read once, sent side by side, gone on with where an upload was cut."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from blake3 import blake3
from vl_agent.checkpoints import download, upload
from vl_agent.checkpoints.download import Bad, fetch
from vl_agent.checkpoints.pace import FREE, Pace
from vl_agent.checkpoints.upload import Sent, Uploads, part_size
from vl_agent.protocol import BlobRef, blob_key, decode, encode
from vl_agent.store import Denied, Store, StoreError, Take, Unanswered, open_store

from tests.agent.held import RUN
from tests.store.memory import Ask, Fate, MemoryStore

PART = 1000


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PART", PART)
    monkeypatch.setattr(upload, "MOST_PART", PART)
    monkeypatch.setattr(upload, "IN_FLIGHT", 3 * PART)


class Keys:
    """Makes keys as a pipeline does; ``made`` counts them."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch, self.made = epoch, 0

    def new(self, digest: str) -> str:
        self.made += 1
        return blob_key(RUN, digest, self.epoch, self.made)


def file_of(folder: Path, size: int) -> Path:
    path = folder / "step-5.pt"
    path.write_bytes(os.urandom(size))
    return path


async def sent(store: Store, path: Path, **options: object) -> Sent:
    uploads = Uploads(store)
    uploads.begin(path, path.stat().st_size)
    return await uploads.send(path, options.get("known", {}), Keys().new)  # type: ignore[arg-type]


def blobs(store: MemoryStore) -> list[str]:
    return sorted(store.memory.objects)


def puts(store: MemoryStore) -> list[str]:
    return [ask.key for ask in store.asked if ask.op == "put"]


@pytest.fixture(params=["memory", "file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "file":
        return open_store(f"file://{tmp_path}/shared")
    made: Store = request.getfixturevalue("s3_store")()
    return made


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 7 * PART, 7 * PART + 13])
async def test_a_file_comes_back_as_it_was(store: Store, tmp_path: Path, size: int) -> None:
    path = file_of(tmp_path, size)
    there = await sent(store, path)
    ref = decode(BlobRef, encode(there.ref("step-5.pt", 0o640)))
    assert (ref.size, ref.hash, ref.mode) == (size, blake3(path.read_bytes()).hexdigest(), 0o640)
    assert (there.bytes, len(ref.pieces)) == (size, max(1, -(-size // PART)))
    assert {entry.key: entry.size for entry in await store.list("")} == {p.key: p.size for p in ref.pieces}
    await fetch(store, [(ref, tmp_path / "back")])
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


def test_parts_of_equal_files_are_equal_and_a_manifest_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    gib = 1 << 30
    assert [part_size(size) >> 20 for size in (0, 1, gib, 8 * gib, 12 * gib, 16 * gib, 500 * gib)] == [
        16, 16, 16, 16, 24, 32, 32,
    ]  # fmt: skip
    assert all(part_size(size) % (1 << 20) == 0 for size in (1, 9 * gib + 1, 13 * gib + 12345))


# ------------------------------------------------------------------------------------------------------------- upload


async def test_what_is_known_is_not_sent_again_part_by_part(tmp_path: Path) -> None:
    store = MemoryStore()
    path = file_of(tmp_path, 5 * PART)
    first = await sent(store, path)
    with path.open("r+b") as file:
        file.seek(2 * PART)
        file.write(b"another loss, other weights")
    store.asked.clear()
    known = {(part.hash, part.size): part.key for part in first.parts}
    second = await sent(store, path, known=known)
    assert len(puts(store)) == 1
    assert second.bytes == PART
    assert [a.key == b.key for a, b in zip(first.parts, second.parts, strict=True)] == [True, True, False, True, True]


@pytest.mark.parametrize("lost", range(7))
async def test_after_a_drop_only_what_is_missing_is_sent(tmp_path: Path, lost: int) -> None:
    store = MemoryStore()
    path = file_of(tmp_path, 7 * PART)
    uploads, keys = Uploads(store), Keys()
    arrived = 0

    def drops(ask: Ask) -> Fate:
        nonlocal arrived
        arrived += ask.op == "put"
        return "lost" if arrived > lost else "ok"

    store.fault = drops
    uploads.begin(path, 7 * PART)
    with pytest.raises(Unanswered):
        await uploads.send(path, {}, keys.new)
    before = blobs(store)
    assert len(before) == lost
    store.fault, store.asked = None, []
    uploads.begin(path, 7 * PART)
    there = await uploads.send(path, {}, keys.new)
    assert len(puts(store)) == 7 - lost
    assert there.hash == blake3(path.read_bytes()).hexdigest()
    assert set(before) <= {part.key for part in there.parts}, "what was there already is used"


async def test_what_a_given_up_save_left_is_known_once_a_later_one_is_committed(tmp_path: Path) -> None:
    store = MemoryStore()
    uploads, keys = Uploads(store), Keys()
    path = file_of(tmp_path, 3 * PART)
    store.fault = lambda ask: "lost" if ask.op == "put" and keys.made > 2 else "ok"
    uploads.begin(path, 3 * PART)
    with pytest.raises(Unanswered):
        await uploads.send(path, {}, keys.new)
    assert blobs(store)
    store.fault = None
    path.write_bytes(os.urandom(2 * PART))
    uploads.begin("a later save", 2 * PART)
    there = await uploads.send(path, {}, keys.new)
    named = {part.key for part in there.parts}
    left = uploads.settle(named)
    assert left
    assert left >= set(blobs(store)) - named, "nothing that arrived is forgotten"
    assert not left & named


async def test_credentials_that_end_are_not_asked_again(tmp_path: Path) -> None:
    class Ends(MemoryStore):
        refused = 0

        async def put_part(self, key: str, data: bytes | bytearray, *, limit_s: float) -> None:
            if len(self.memory.objects) >= 2:
                self.refused += 1
                raise Denied("memory: ended.")
            await super().put_part(key, data, limit_s=limit_s)

    store = Ends()
    path = file_of(tmp_path, 20 * PART)
    with pytest.raises(Denied):
        await sent(store, path)
    assert store.refused <= 3, "no more than were on their way"


async def test_memory_is_bounded_by_what_is_in_flight(tmp_path: Path) -> None:
    class Counts(MemoryStore):
        now = most = 0
        buffers: set[int] = set()
        full = asyncio.Event()

        async def put_part(self, key: str, data: bytes | bytearray, *, limit_s: float) -> None:
            self.now += 1
            self.most = max(self.most, self.now)
            self.buffers.add(id(data))
            if self.now == 3:
                self.full.set()
            await self.full.wait()
            await super().put_part(key, data, limit_s=limit_s)
            self.now -= 1

    store = Counts()
    await sent(store, file_of(tmp_path, 40 * PART))
    assert (store.most, len(store.buffers)) == (3, 3)


async def test_a_buffer_that_a_given_up_request_may_still_read_is_not_filled_anew(tmp_path: Path) -> None:
    """Else a request that arrives late would put other bytes under a key that is named."""
    given: list[tuple[bytearray | bytes, bytes]] = []

    class Late(MemoryStore):
        async def put_part(self, key: str, data: bytes | bytearray, *, limit_s: float) -> None:
            if len(given) % 2 == 0:
                given.append((data, bytes(data)))
                raise Unanswered("memory: given up.")
            given.append((data, bytes(data)))
            await super().put_part(key, data, limit_s=limit_s)

    await sent(Late(), file_of(tmp_path, 12 * PART))
    assert all(bytes(data) == before for data, before in given[::2])


async def test_a_file_that_is_cut_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = file_of(tmp_path, 9 * PART)

    class Cuts(MemoryStore):
        async def put_part(self, key: str, data: bytes | bytearray, *, limit_s: float) -> None:
            os.truncate(path, PART)

    with pytest.raises(EOFError):
        await sent(Cuts(), path)


async def test_a_key_that_a_swap_was_asked_to_name_is_not_used_for_another_save(tmp_path: Path) -> None:
    """Its answer may have been lost, and a later swap may have dropped it: it would be named after its release."""
    uploads, keys = Uploads(MemoryStore()), Keys()
    path = file_of(tmp_path, PART)
    uploads.begin("a save", PART)
    first = (await uploads.send(path, {}, keys.new)).parts
    assert (await uploads.send(path, {}, keys.new)).parts == first, "until then it is"
    uploads.offer({part.key for part in first})
    uploads.begin("the same content again", PART)
    again = await uploads.send(path, {}, keys.new)
    assert again.bytes == PART
    assert again.parts[0].key != first[0].key
    assert uploads.settle({again.parts[0].key}) == {first[0].key}, "whoever sees that nothing names it may delete it"


async def test_progress_counts_what_is_in_the_store(tmp_path: Path) -> None:
    store = MemoryStore()
    uploads = Uploads(store)
    assert uploads.progress is None
    path = file_of(tmp_path, 4 * PART)
    uploads.begin(path, 4 * PART)
    there = await uploads.send(path, {}, Keys().new)
    progress = uploads.progress
    assert progress is not None
    assert (progress.bytes, progress.total) == (4 * PART, 4 * PART)
    assert progress.rate > 0
    uploads.settle({part.key for part in there.parts})
    assert uploads.progress is None


# --------------------------------------------------------------------------------------------------------------- pace


class Clocks:
    now = 0.0
    cpu = 0.0


def paced(clocks: Clocks, cores: int = 2) -> Pace:
    return Pace(cores, monotonic=lambda: clocks.now, cpu=lambda: clocks.cpu)


async def test_an_upload_takes_one_percent_of_the_cores() -> None:
    clocks = Clocks()
    pace = paced(clocks, cores=4)
    pace.begin(1 << 30)
    await pace.take(FREE)
    clocks.cpu = 0.2
    assert pace.wait_s() == pytest.approx(0.2 / 0.04)
    clocks.now += 3
    assert pace.wait_s() == pytest.approx(2.0)
    clocks.now += 2
    assert pace.wait_s() == 0


async def test_an_upload_is_through_before_the_next_save_is_due() -> None:
    clocks = Clocks()
    pace = paced(clocks)
    pace.begin(10 * FREE)
    clocks.now = 100.0  # the second comes after 100 s
    pace.begin(10 * FREE)
    for _ in range(5):
        await pace.take(FREE)
        clocks.now += pace.wait_s()
        clocks.cpu += 50.0
    assert clocks.now == pytest.approx(100 + 0.7 * 100 / 2)


async def test_a_small_save_does_not_wait() -> None:
    pace = paced(Clocks())
    pace.begin(FREE - 1)
    await pace.take(FREE - 1)
    assert pace.wait_s() == 0


async def test_a_notice_unpaces_who_waits_already() -> None:
    clocks = Clocks()
    pace = paced(clocks)
    pace.begin(1 << 40)
    await pace.take(FREE)
    clocks.cpu = 1e6
    waiting = asyncio.create_task(pace.take(FREE))
    await asyncio.sleep(0)
    assert not waiting.done()
    pace.hurry()
    await asyncio.wait_for(waiting, 20)
    await asyncio.wait_for(pace.take(1 << 30), 20)


# ----------------------------------------------------------------------------------------------------------- download


class Stops(MemoryStore):
    """Fails after so many parts, until ``goes`` is set."""

    after = 3
    goes = False

    async def get_part(self, key: str, size: int, take: Take) -> None:
        if not self.goes and self.after <= 0:
            raise StoreError("memory: stopped.")
        self.after -= 1
        await super().get_part(key, size, take)


async def test_a_cut_download_goes_on_where_it_was(tmp_path: Path) -> None:
    store = Stops()
    path = file_of(tmp_path, 8 * PART)
    ref = (await sent(store, path)).ref("step-5.pt", 0o644)
    back = tmp_path / "back"
    with pytest.raises(StoreError):
        await fetch(store, [(ref, back)])
    assert not back.exists()
    store.goes, store.asked = True, []
    await fetch(store, [(ref, back)])
    assert back.read_bytes() == path.read_bytes()
    assert len([ask for ask in store.asked if ask.op == "get"]) == 5


@pytest.mark.parametrize("part", [0, 3, 7])
async def test_a_corrupt_part_is_found_wherever_it_is(tmp_path: Path, part: int) -> None:
    store = MemoryStore()
    ref = (await sent(store, file_of(tmp_path, 8 * PART))).ref("step-5.pt", 0o644)
    body = bytearray(store.memory.objects[ref.parts[part].key])
    body[17] ^= 1
    store.memory.objects[ref.parts[part].key] = bytes(body)
    with pytest.raises(Bad, match="its hash differs"):
        await fetch(store, [(ref, tmp_path / "back")])
    assert not (tmp_path / "back").exists()


async def test_a_byte_that_was_changed_on_its_way_is_fetched_again(tmp_path: Path) -> None:
    class Garbles(MemoryStore):
        times = 1

        async def get_part(self, key: str, size: int, take: Take) -> None:
            def garbled(block: memoryview) -> None:
                take(memoryview(bytes(len(block))) if self.times else block)
                self.times = 0

            await super().get_part(key, size, garbled)

    store = Garbles()
    path = file_of(tmp_path, 3 * PART)
    ref = (await sent(store, path)).ref("step-5.pt", 0o644)
    await fetch(store, [(ref, tmp_path / "back")])
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


async def test_so_many_parts_arrive_at_once_over_all_files(tmp_path: Path) -> None:
    class Counts(MemoryStore):
        now = most = 0

        async def get_part(self, key: str, size: int, take: Take) -> None:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0)
            await super().get_part(key, size, take)
            self.now -= 1

    store = Counts()
    wanted = []
    for number in range(5):
        ref = (await sent(store, file_of(tmp_path, 9 * PART))).ref("step-5.pt", 0o644)
        wanted.append((ref, tmp_path / f"back-{number}"))
    await fetch(store, wanted)
    assert store.most == download.STREAMS
    assert all(blake3(path.read_bytes()).hexdigest() == ref.hash for ref, path in wanted)
