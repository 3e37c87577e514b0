"""The controller's own journal of a run, and what it and its predecessors have told in it.

A segment is written once under this generation's name; events that the store did not take stay here for the next time.
"""

from __future__ import annotations

from typing import Any

from vl_agent.protocol import Event, controller_writer, journal_key
from vl_agent.store import Exists, Store

from vl_tui.controller.clock import Clock
from vl_tui.domain.verify import fold
from vl_tui.store.journals import JournalReader

_MOST_PENDING = 10_000
"""Events kept while the store is out of reach; the oldest go first."""


class Journal:
    """Tells events of one run; ``told`` is the fold of everything that any controller told."""

    def __init__(self, store: Store, run: str, generation: int, clock: Clock) -> None:
        self._store, self._run, self._clock = store, run, clock
        self._writer, self._sequence = controller_writer(generation), 0
        self._reader = JournalReader(store, run)
        self._pending: list[Event] = []
        self.told: list[Event] = []
        self.losses: dict[int, dict[int, float]] = {}
        """By epoch, by step: what the attempts told (``proof``)."""

    async def read(self) -> None:
        """Fold what was journaled since the last call: by earlier controllers, and losses by the agents. Raises
        ``StoreError``."""
        lines = await self._reader.more()
        fold(self.losses, (line.event for line in lines if line.writer.startswith("agent-")))
        others = (line for line in lines if line.writer.startswith("controller-") and line.writer != self._writer)
        self.told.extend(line.event for line in sorted(others, key=lambda line: line.order))

    def tell(self, kind: str, epoch: int, **fields: Any) -> None:
        event = Event(self._clock.wall(), kind, epoch, fields)
        self._pending.append(event)
        self.told.append(event)
        del self._pending[:-_MOST_PENDING]

    def has(self, kind: str, **fields: Any) -> bool:
        """Whether an event of that kind with those fields (``epoch`` counts as one) was told by any controller."""
        return any(
            event.kind == kind
            and all(
                (event.epoch if key == "epoch" else event.fields.get(key)) == value for key, value in fields.items()
            )
            for event in self.told
        )

    async def flush(self) -> None:
        """Write what is pending as one segment. Raises ``StoreError``; then it stays pending."""
        while self._pending:
            batch = list(self._pending)
            body = b"".join(event.line() for event in batch)
            try:
                await self._store.create(journal_key(self._run, self._writer, self._sequence), body)
            except Exists:  # an unanswered write that did happen, of these events or of fewer
                before = (await self._store.get(journal_key(self._run, self._writer, self._sequence))).data
                batch = batch[: before.count(b"\n")]
            self._sequence += 1
            del self._pending[: len(batch)]
