"""A run's logs as the store keeps them: ranges of each attempt's log, so that logs outlive boxes."""

from __future__ import annotations

import io

import zstandard
from vl_agent.protocol import logs_prefix
from vl_agent.store import Store

_MOST = 64 << 20
"""Bytes that one range may unpack to: what a box wrote is not trusted to be small."""


async def epochs(store: Store, run: str) -> list[int]:
    """Attempts that have a log in the store."""
    return [int(name) for name in await store.folders(logs_prefix(run)) if name.isdigit()]


async def ranges(store: Store, run: str, epoch: int, after: int = -1) -> list[tuple[int, str]]:
    """(first byte, key) of each range of the attempt's log that begins after byte ``after``, in order."""
    prefix = f"{logs_prefix(run)}{epoch:06d}/log/"
    found = []
    for entry in await store.list(prefix):
        number = entry.key.removeprefix(prefix).removesuffix(".zst")
        if number.isdigit() and int(number) > after:
            found.append((int(number), entry.key))
    return sorted(found)


async def read(store: Store, key: str) -> bytes:
    """One range, unpacked. Raises ``StoreError``; a range that can't be unpacked reads as a note of that."""
    packed = (await store.get(key)).data
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)) as reader:
            return reader.read(_MOST)
    except zstandard.ZstdError:
        return f"\n[a range of this log can't be unpacked: {key}]\n".encode()
