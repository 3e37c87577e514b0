"""From blobs to a file: parts side by side, straight to their place on disk, each hashed as it arrives.

A file under its final name is whole. What a cut download left is hashed part by part and only the rest is fetched;
there is no second pass over what came.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3

from vl_agent.protocol import BlobRef, Part
from vl_agent.store import Denied, NoStore, NotFound, Store, StoreError
from vl_agent.store.threads import to_its_end

STREAMS = 6
"""Parts that arrive at the same time."""
FILES = 4
TRIES = 5
FIRST_PAUSE_S, MOST_PAUSE_S = 0.5, 15.0
_BLOCK = 4 << 20


class Bad(Exception):
    """This checkpoint can't be used: a blob is missing or is not what its manifest says."""


async def fetch(store: Store, wanted: Sequence[tuple[BlobRef, Path]]) -> None:
    """Bring each file to its path, hash-checked and synced, several at once. Raises ``Bad``, ``StoreError`` (what came
    is used by the next try), ``OSError`` when the disk is full."""
    streams, files = asyncio.Semaphore(STREAMS), asyncio.Semaphore(FILES)

    async def one(ref: BlobRef, path: Path) -> None:
        async with files:
            await _file(store, ref, path, streams)

    await _all([one(ref, path) for ref, path in wanted])


def begun(path: Path) -> Path:
    """Where a file is until it is whole."""
    return path.with_name(f".{path.name}.part")


async def _file(store: Store, ref: BlobRef, path: Path, streams: asyncio.Semaphore) -> None:
    new = begun(path)
    file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        left = os.fstat(file).st_size == ref.size
        if not left:
            await to_its_end(lambda: _make_room(file, ref.size))
        start, parts = 0, []
        for part in ref.pieces:
            parts.append(_part(store, ref, part, file, start, left, streams))
            start += part.size
        await _all(parts)
        await to_its_end(lambda: os.fsync(file))
    finally:
        os.close(file)
    os.replace(new, path)


async def _part(
    store: Store, ref: BlobRef, part: Part, file: int, start: int, left: bool, streams: asyncio.Semaphore
) -> None:
    async with streams:
        if left and await to_its_end(lambda: _digest(file, start, part.size)) == part.hash:
            return
        for tried in range(TRIES):
            try:
                if await _stream(store, part, file, start) == part.hash:
                    return
                wrong = True
            except NotFound:
                raise Bad(f"the blob of {ref.path} is missing") from None
            except (Denied, NoStore):
                raise
            except StoreError:
                if tried == TRIES - 1:
                    raise
                wrong = False
            if wrong and tried:  # twice: it is the blob, not the way
                raise Bad(f"the blob of {ref.path} is not what was saved: its hash differs")
            pause = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2**tried)
            await asyncio.sleep(random.uniform(pause / 2, pause))


async def _stream(store: Store, part: Part, file: int, start: int) -> str:
    """Write a part to its place as it arrives. Returns the hash of what came."""
    total = blake3()
    at = start

    def take(block: memoryview) -> None:
        nonlocal at
        total.update(block)
        while block:
            wrote = os.pwrite(file, block, at)
            block, at = block[wrote:], at + wrote

    await store.get_part(part.key, part.size, take)
    return str(total.hexdigest())


def _digest(file: int, start: int, size: int) -> str:
    total = blake3()
    at = start
    while at < start + size:
        block = os.pread(file, min(_BLOCK, start + size - at), at)
        if not block:
            break
        total.update(block)
        at += len(block)
    return str(total.hexdigest())


def _make_room(file: int, size: int) -> None:
    """All of it, at once: a full disk is told before a byte is fetched, and the file lies in one piece."""
    os.ftruncate(file, 0)
    if size:
        os.posix_fallocate(file, 0, size)


async def _all(acts: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run them at once; the first error ends the others, and none is left running."""
    tasks = [asyncio.create_task(act) for act in acts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
