"""The training's log, shipped to the store in compressed ranges so that it outlives the box."""

from __future__ import annotations

import asyncio
from pathlib import Path

import zstandard

from vl_agent.protocol import log_key, logs_prefix
from vl_agent.store import Store, StoreError

SHIP_S = 10.0
_RANGE = 1 << 20


class LogShipper:
    """Ships one append-only file. A range's key is its first byte, so shipping it twice is shipping it once."""

    def __init__(self, path: Path, run: str, epoch: int, store: Store) -> None:
        self._path, self._run, self._epoch, self._store = path, run, epoch, store
        self._shipped = 0

    async def take_up(self) -> None:
        """Go on from what the store holds: the last range may be sent again, longer. Raises ``StoreError``."""
        there = await self._store.list(f"{logs_prefix(self._run)}{self._epoch:06d}/log/")
        if there:
            self._shipped = int(there[-1].key.rpartition("/")[2].partition(".")[0])

    async def ship(self) -> None:
        """Bring what is new into the store. Raises ``StoreError``; the next call goes on from there."""
        while True:
            try:
                with self._path.open("rb") as file:
                    file.seek(self._shipped)
                    chunk = file.read(_RANGE)
            except FileNotFoundError:
                return
            if not chunk:
                return
            packed = await asyncio.to_thread(zstandard.ZstdCompressor(level=3).compress, chunk)
            await self._store.put(log_key(self._run, self._epoch, "log", self._shipped), packed)
            self._shipped += len(chunk)

    async def keep_shipping(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(SHIP_S)
            try:
                await self.ship()
            except StoreError:
                continue
