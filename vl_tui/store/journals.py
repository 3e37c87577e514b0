"""A run's journals, read as they grow.

Segments are immutable and numbered by writer, so what was read once is never read again: each look asks only for what
sorts after the last segment of each writer.
"""

from __future__ import annotations

from dataclasses import dataclass

from vl_agent.protocol import Event, ProtocolError, journal_prefix, parse_event
from vl_agent.store import Store

from vl_tui.store.runs import read_all


@dataclass(frozen=True)
class Line:
    """One event and where it stood: writer (``agent-000003``), segment, line."""

    writer: str
    sequence: int
    index: int
    event: Event

    @property
    def order(self) -> tuple[int, str, int, int]:
        """Events fold by epoch, then writer, then place; wall times are for showing only."""
        return (self.event.epoch, self.writer, self.sequence, self.index)


class JournalReader:
    """Reads one run's journals piece by piece. ``skipped`` counts lines that could not be read."""

    def __init__(self, store: Store, run: str) -> None:
        self._store, self._prefix = store, journal_prefix(run)
        self._last: dict[str, str] = {}
        self.skipped = 0

    async def more(self) -> list[Line]:
        """What was written since the last call. Raises ``StoreError``; nothing is lost then."""
        fresh: list[str] = []
        for writer in await self._store.folders(self._prefix):
            folder = f"{self._prefix}{writer}/"
            fresh += [entry.key for entry in await self._store.list(folder, self._last.get(writer, ""))]
        bodies = await read_all(self._store, fresh)
        lines: list[Line] = []
        for key in fresh:
            if key in bodies:
                lines += self._parse(key, bodies[key])
        for key in fresh:
            writer = key.removeprefix(self._prefix).partition("/")[0]
            self._last[writer] = max(self._last.get(writer, ""), key)
        return lines

    def _parse(self, key: str, body: bytes) -> list[Line]:
        writer, _, name = key.removeprefix(self._prefix).partition("/")
        number = name.removesuffix(".jsonl")
        if not number.isdigit():
            self.skipped += 1
            return []
        lines = []
        for index, line in enumerate(body.split(b"\n")):
            if not line:
                continue
            try:
                lines.append(Line(writer, int(number), index, parse_event(line)))
            except ProtocolError:
                self.skipped += 1
        return lines


async def read_events(store: Store, run: str) -> list[Event]:
    """Every event of the run, in order of epoch, writer, place."""
    return [line.event for line in sorted(await JournalReader(store, run).more(), key=lambda line: line.order)]
