"""The fleet's books: every box it ever had, kept in a file so that the next fleet on the same folder knows them too."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vl_agent.protocol import Market

from vl_tui.domain.box import BoxState

LIVING: tuple[BoxState, ...] = ("launching", "running")


@dataclass
class Entry:
    """One box, from its order to its end."""

    id: str
    name: str
    provider: str
    place: str
    market: Market
    gpu: str
    usd_hour: float
    created_at: float
    tags: Mapping[str, str] = field(default_factory=dict)
    state: BoxState = "launching"
    cause: str = ""
    """Why it is no longer living, in its provider's words."""
    ended_at: float | None = None
    """When the last of its processes and its disk were gone."""
    ssh_port: int = 0
    host_key: str = ""

    @property
    def living(self) -> bool:
        return self.state in LIVING


class Books:
    """All entries, oldest first; ``save`` before what was written is acted on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}
        if path.exists():
            for given in json.loads(path.read_text())["boxes"]:
                entry = Entry(**given)
                self._entries[entry.id] = entry

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, box: str) -> Entry | None:
        """By id."""
        return self._entries.get(box)

    def named(self, provider: str, name: str) -> list[Entry]:
        return [entry for entry in self if entry.provider == provider and entry.name == name]

    def add(self, entry: Entry) -> None:
        self._entries[entry.id] = entry
        self.save()

    def save(self) -> None:
        """The whole file, replaced: short, and a killed fleet leaves the old or the new."""
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"format": 1, "boxes": [asdict(entry) for entry in self]}))
        os.replace(temporary, self._path)
