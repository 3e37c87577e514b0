"""From a file to blobs in the store: read once, in parts, each hashed and sent from the same buffer.

What is committed is what was hashed, because it is the same bytes in memory. A part is an object of its own, so an
upload that was cut (a drop, an outage, credentials that ended) goes on with the parts that are missing: the others are
found by their hash, like those of kept checkpoints, and nothing lies in the store that a list does not show. Memory is
bounded by the buffers in flight, whatever the file's size.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from vl_agent.checkpoints.pace import Pace, step_back, step_back_here
from vl_agent.protocol import BlobRef, Part
from vl_agent.store import Denied, NoStore, Store, StoreError

PART = 16 << 20
"""Bytes of a part of a file of usual size: large enough that requests cost nothing, small enough to be sent again."""
MOST_PART = 32 << 20
PARTS = 512
"""A larger file has larger parts, up to ``MOST_PART``: fewer keys."""
IN_FLIGHT = 96 << 20
"""Bytes that are read and not yet in the store."""
TRIES = 5
FIRST_PAUSE_S, MOST_PAUSE_S = 0.5, 15.0
LEAST_LIMIT_S, FIRST_LIMIT_S, MOST_LIMIT_S = 30.0, 120.0, 600.0
"""Of one part's request: the first is patient, later ones know how long a part takes here."""

Known = Mapping[tuple[str, int], str]
"""Keys of blobs that may be named again, by hash and size."""


@dataclass(frozen=True)
class Progress:
    bytes: int
    """In the store already."""
    total: int
    rate: float
    """Bytes a second since the save's upload began, waits included."""


@dataclass(frozen=True)
class Sent:
    """A file that is in the store."""

    hash: str
    parts: tuple[Part, ...]
    bytes: int
    """What had to be sent for it."""

    def ref(self, path: str, mode: int) -> BlobRef:
        size = sum(part.size for part in self.parts)
        if len(self.parts) == 1:
            return BlobRef(path, size, self.hash, self.parts[0].key, mode)
        return BlobRef(path, size, self.hash, "", mode, self.parts)


def part_size(size: int) -> int:
    """Bytes of every part but the last of a file: the same for equal sizes, so that equal parts are found again."""
    mib = -(-size // PARTS) + (1 << 20) - 1 >> 20
    return min(MOST_PART, max(PART, mib << 20))


class Uploads:
    """The uploads of one epoch, one file after the other. ``begin`` a save, ``send`` its files, ``settle`` once it is
    committed."""

    def __init__(
        self, store: Store, pace: Pace | None = None, *, monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:  # fmt: skip
        self._store, self._monotonic, self._jitter = store, monotonic, jitter
        self._pace = pace or Pace()
        self._reading = ThreadPoolExecutor(1, "vl-read", initializer=step_back_here)
        self._keys: dict[tuple[str, int], str] = {}
        self._there: set[str] = set()
        self._offered: set[str] = set()
        self._slowest_s = 0.0
        self._save: object = None
        self._began, self._done, self._sent, self._total = 0.0, 0, 0, 0

    @property
    def progress(self) -> Progress | None:
        """Of the save that is being uploaded; None: none is."""
        if self._save is None:
            return None
        took = max(self._monotonic() - self._began, 1e-3)
        return Progress(self._done, self._total, self._sent / took)

    def begin(self, save: object, total: int) -> None:
        """A save of ``total`` bytes in all its files goes up now; the same one again after a failure."""
        if self._save is not save:
            self._save, self._total, self._began = save, total, self._monotonic()
            self._pace.begin(total)
            self._sent = 0
        self._done = 0

    def hurry(self) -> None:
        """A notice, or nothing trains any more: unpaced, also what is under way."""
        if not self._pace.in_a_hurry:
            self._pace.hurry()
            step_back(urgent=True)

    async def send(self, path: Path, known: Known, new_key: Callable[[str], str]) -> Sent:
        """Bring a file into the store; parts that ``known`` or a former try has are not sent again. ``new_key`` makes
        the key of a new blob from its hash. Raises ``StoreError`` (what is in the store stays: ask again),
        ``FileNotFoundError``, ``EOFError`` when the file is cut meanwhile."""
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not self._pace.in_a_hurry:
                step_back()
            return await self._send(file, os.fstat(file).st_size, known, new_key)
        finally:
            os.close(file)

    def has(self, size: int) -> None:
        """A file of the save, of ``size`` bytes, is in the store as a whole."""
        self._done += size

    def offer(self, named: Collection[str]) -> None:
        """A swap that names these keys is asked for. Whatever is answered, the head may name them from here on, and a
        later swap may drop them: they are not taken for another save."""
        self._offered.update(named)
        self._keys = {content: key for content, key in self._keys.items() if key not in self._offered}
        self._there.difference_update(named)

    def settle(self, named: Collection[str]) -> set[str]:
        """A save is committed, whose blobs are ``named``. Returns what former tries sent beside them: whoever has seen
        that no checkpoint names it may delete it, or leave it to the next epoch's sweep."""
        left = self._offered.union(self._keys.values()).difference(named)
        self._keys.clear()
        self._offered.clear()
        self._there.clear()
        self._save = None
        return left

    async def _send(self, file: int, size: int, known: Known, new_key: Callable[[str], str]) -> Sent:
        step = part_size(size)
        buffers = _Buffers(min(step, size), max(1, IN_FLIGHT // step))
        whole = blake3()
        parts: list[Part] = []
        tasks: dict[str, asyncio.Task[None]] = {}
        sent = 0
        loop = asyncio.get_running_loop()
        try:
            for start in range(0, max(size, 1), step):
                length = min(step, size - start)
                await self._pace.take(length)
                buffer = await buffers.get()
                if any(task.done() and task.exception() for task in tasks.values()):
                    break  # those that are on their way end; then the store's word is told
                digest = await loop.run_in_executor(self._reading, _read, file, buffer, start, length, whole)
                key = known.get((digest, length)) or self._key(digest, length, new_key)
                parts.append(Part(key, length, digest))
                if (digest, length) in known or key in self._there or key in tasks:
                    buffers.give_back(buffer)
                    self._done += length
                    continue
                data = buffer if length == len(buffer) else bytes(memoryview(buffer)[:length])
                tasks[key] = asyncio.create_task(self._put(key, data, buffer, buffers))
                sent += length
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            for task in tasks.values():
                task.result()
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return Sent(whole.hexdigest(), tuple(parts), sent)

    def _key(self, digest: str, length: int, new_key: Callable[[str], str]) -> str:
        """A part keeps its key when it is sent again: nobody knows whether the first one arrived."""
        if (digest, length) not in self._keys:
            self._keys[digest, length] = new_key(digest)
        return self._keys[digest, length]

    async def _put(self, key: str, data: bytearray | bytes, buffer: bytearray, buffers: _Buffers) -> None:
        """One part, asked again with growing pauses. A buffer that a given-up request may still read is not reused."""
        clean = False
        try:
            clean = await self._ask(key, data)
        finally:
            buffers.give_back(buffer if clean else None)
        self._there.add(key)
        self._done += len(data)
        self._sent += len(data)

    async def _ask(self, key: str, data: bytearray | bytes) -> bool:
        """True: at the first try."""
        limit = min(MOST_LIMIT_S, max(LEAST_LIMIT_S, 8 * self._slowest_s)) if self._slowest_s else FIRST_LIMIT_S
        for tried in range(TRIES):
            began = self._monotonic()
            try:
                await self._store.put_part(key, data, limit_s=min(MOST_LIMIT_S, limit * 2**tried))
            except (Denied, NoStore):
                raise
            except StoreError:
                if tried == TRIES - 1:
                    raise
            else:
                self._slowest_s = max(0.9 * self._slowest_s, self._monotonic() - began)
                return tried == 0
            pause = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2**tried)
            await asyncio.sleep(self._jitter(pause / 2, pause))
        raise AssertionError("the last try returns or raises")


class _Buffers:
    """So many buffers of one size, made when they are needed first."""

    def __init__(self, size: int, count: int) -> None:
        self._size = size
        self._free: asyncio.LifoQueue[bytearray | None] = asyncio.LifoQueue()
        for _ in range(count):
            self._free.put_nowait(None)

    async def get(self) -> bytearray:
        buffer = await self._free.get()
        return bytearray(self._size) if buffer is None else buffer

    def give_back(self, buffer: bytearray | None) -> None:
        """None: it is not to be had any more, a new one takes its place."""
        self._free.put_nowait(buffer)


def _read(file: int, buffer: bytearray, start: int, length: int, whole: blake3) -> str:
    """Fill ``buffer`` from the file and hash it, alone and as the next stretch of the whole."""
    view = memoryview(buffer)[:length]
    at = 0
    while at < length:
        got = os.preadv(file, [view[at:]], start + at)
        if not got:
            raise EOFError("the file was cut while it was read")
        at += got
    whole.update(view)
    return str(blake3(view).hexdigest())
