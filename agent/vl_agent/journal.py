"""The attempt's journal: appended to a file here, for whoever is attached, and in segments to the store.

The file is the truth on this box; the store has all of it but the last moment. A segment is written once, under a
number that only this epoch uses, so a lost answer is asked again without harm.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vl_agent.protocol import Event, agent_writer, journal_key, journal_prefix
from vl_agent.store import Exists, Store, StoreError

SHIP_S = 1.0
"""Steps and losses reach the store within two seconds."""
_SEGMENT = 4 << 20
_MOST_UNWRITTEN = 1 << 20


class Journal:
    """Writes events of one epoch. Thread-unsafe; all on the loop."""

    def __init__(self, path: Path, run: str, epoch: int, store: Store, wall: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._path, self._run, self._epoch, self._store, self._wall = path, run, epoch, store, wall
        self._written = os.fstat(self._file).st_size
        self._unwritten = b""
        self._shipped = self._sequence = 0

    def tell(self, kind: str, **fields: Any) -> None:
        """Append one event. A full disk must not end the training: what can't be written waits for the next event,
        and beyond a mebibyte is lost."""
        line = Event(self._wall(), kind, self._epoch, fields).line()
        if len(self._unwritten) + len(line) <= _MOST_UNWRITTEN:
            self._unwritten += line
        try:
            written = os.write(self._file, self._unwritten)
        except OSError:
            return
        self._written += written
        self._unwritten = self._unwritten[written:]

    async def take_up(self) -> None:
        """Go on from what the store holds of this journal: its writer was killed with the last moment unsent. Raises
        ``StoreError``."""
        there = await self._store.list(f"{journal_prefix(self._run)}{agent_writer(self._epoch)}/")
        self._sequence, self._shipped = len(there), sum(entry.size for entry in there)

    async def ship(self) -> None:
        """Bring what is new into the store. Raises ``StoreError``; the next call goes on from there."""
        while self._shipped < self._written:
            with self._path.open("rb") as file:
                file.seek(self._shipped)
                chunk = file.read(_SEGMENT)
            whole = chunk[: chunk.rfind(b"\n") + 1]
            if not whole:
                return
            key = journal_key(self._run, agent_writer(self._epoch), self._sequence)
            try:
                await self._store.create(key, whole)
            except Exists:  # an answer was lost: what is there is a beginning of what we hold
                whole = (await self._store.get(key)).data
            self._shipped += len(whole)
            self._sequence += 1

    async def keep_shipping(self) -> None:
        """Until cancelled. A store that can't be reached is asked again; the file holds everything meanwhile."""
        pause = SHIP_S
        while True:
            await asyncio.sleep(pause)
            try:
                await self.ship()
                pause = SHIP_S
            except StoreError:
                pause = min(10.0, pause * 2)

    def close(self) -> None:
        os.close(self._file)
