"""Proves that a store honours conditional writes, before anything is trusted to it.

Some servers ignore ``If-None-Match`` and ``If-Match`` without a word; some honour them one request at a time and lose
races. On either, two boxes would both believe that they hold a run.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress

from vl_agent.store.base import Exists, Moved, Store, StoreError, Unsafe

ROUNDS = 6
RACERS = 4
"""Few racers in many races at once: a server that hands a contended key on once a second (SeaweedFS does) makes each
racer more cost a second."""
SCRATCH = "fleet/proof/"


async def prove(store: Store) -> None:
    """Race creates and swaps under a scratch key. Raises ``Unsafe`` when more than one wins or a stale one does,
    ``StoreError`` when the store can't be asked."""
    ended = await asyncio.gather(*(_round(store) for _ in range(ROUNDS)), return_exceptions=True)
    failed = [error for error in ended if isinstance(error, BaseException)]
    if failed:
        raise next((error for error in failed if isinstance(error, Unsafe)), failed[0])


async def _round(store: Store) -> None:
    key = f"{SCRATCH}{secrets.token_hex(8)}"
    try:
        await _race(store, key)
    except StoreError:
        with suppress(StoreError):  # why the proof failed is what a person must read
            await store.delete(key)
        raise
    await store.delete(key)


async def _race(store: Store, key: str) -> None:
    won = [v for v in await asyncio.gather(*(_create(store, key, i) for i in range(RACERS))) if v is not None]
    if len(won) != 1:
        raise _unsafe(store, f"of {RACERS} creates of one key at once {len(won)} were told they won (If-None-Match)")
    before = won[0]
    won = [v for v in await asyncio.gather(*(_swap(store, key, before, i) for i in range(RACERS))) if v is not None]
    if len(won) != 1:
        raise _unsafe(store, f"of {RACERS} writes of one version at once {len(won)} were told they won (If-Match)")
    if await _swap(store, key, before, RACERS) is not None:
        raise _unsafe(store, "a write against a version that was gone went through (If-Match)")


async def _create(store: Store, key: str, racer: int) -> str | None:
    try:
        return await store.create(key, f"create {racer} {secrets.token_hex(4)}".encode())
    except Exists:
        return None


async def _swap(store: Store, key: str, version: str, racer: int) -> str | None:
    try:
        return await store.swap(key, f"swap {racer} {secrets.token_hex(4)}".encode(), version)
    except Moved:
        return None


def _unsafe(store: Store, what: str) -> StoreError:
    return Unsafe(
        f"{store.url}: this store does not honour conditional writes: {what}. Two boxes could both believe that they"
        " hold a run, and checkpoints would be lost. Use AWS S3, R2, GCS, Azure, MinIO, SeaweedFS or a folder."
    )
