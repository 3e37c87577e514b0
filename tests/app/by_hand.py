"""A fleet in a folder: its store's files are written by hand, as agents and controllers write them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import zstandard
from vl_agent import head as heads
from vl_agent import protocol
from vl_agent.protocol import CheckpointPolicy, Event, HeadState, RunSpec
from vl_agent.store import NotFound, Store, open_store

from tests.app.hand_made import box
from vl_tui.config import FleetConfig, load_fleet
from vl_tui.domain.box import Offer

FLEET = "fleet: mine\nstore: {url}\nproviders: [{{kind: local}}]\nstate: {folder}/state\n"


@dataclass
class Home:
    """One fleet's store and settings below ``folder``."""

    folder: Path
    segments: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store: Store = open_store(f"file://{self.folder}/store")
        self.path = self.folder / "fleet.yaml"
        self.path.write_text(FLEET.format(url=f"file://{self.folder}/store", folder=self.folder))

    @property
    def fleet(self) -> FleetConfig:
        return load_fleet(self.path)

    async def submit(self, name: str, *, fleet: str = "mine") -> None:
        spec = RunSpec(name, fleet, "true", CheckpointPolicy("ckpt"), gpu="A100:1", submitted_at=time.time())
        await heads.submit(self.store, spec)

    async def start(self, name: str, launch: int = 1) -> int:
        """The run's next attempt, claimed by its box. Returns its epoch."""
        seen, _ = await heads.read(self.store, name)
        started = await heads.start(self.store, name, launch=launch, generation=1, expect_epoch=seen.epoch)
        await heads.claim(self.store, name, epoch=started.epoch, token=started.holder)
        return started.epoch

    async def end(self, name: str, state: HeadState, detail: str = "") -> None:
        await heads.end(self.store, name, generation=1, state=state, detail=detail)

    async def journal(self, name: str, writer: str, events: Iterable[Event]) -> None:
        await self.lines(name, writer, b"".join(event.line() for event in events))

    async def lines(self, name: str, writer: str, body: bytes) -> None:
        number = self.segments[f"{name}/{writer}"] = self.segments.get(f"{name}/{writer}", 0) + 1
        await self.store.create(protocol.journal_key(name, writer, number), body)

    async def steps(self, name: str, epoch: int, steps: Iterable[int], total: int = 1000) -> None:
        now = time.time()
        told = [Event(now, "step", epoch, {"step": step, "loss": 2.5, "total": total}) for step in steps]
        await self.journal(name, protocol.agent_writer(epoch), told)

    async def trains(self, name: str, steps: Iterable[int] = range(1, 11)) -> int:
        """Submitted, launched, claimed, and so many steps told; epoch 1 on box 1."""
        await self.submit(name)
        epoch, now = await self.start(name), time.time()
        where = {"launch": 1, "provider": "nimbus", "place": "east", "market": "spot", "usd_hour": 0.42}
        told = [Event(now - 30, "launched", 0, where | {"why": "submit"}), Event(now - 20, "attempt", epoch, where)]
        await self.journal(name, protocol.controller_writer(1), told)
        began = [Event(now - 20, "claimed", epoch, {"launch": 1}), Event(now - 15, "started", epoch, {"pid": 7})]
        await self.journal(name, protocol.agent_writer(epoch), began)
        await self.steps(name, epoch, steps)
        return epoch

    async def view(
        self, *runs: str, offers: Iterable[Offer] = (), boxes: Iterable[Any] | None = None, **more: Any
    ) -> None:
        """What a controller publishes."""
        one = {
            "verdict": "alive",
            "spent_usd": 1.0,
            "usd_hour": 0.42,
            "boxes": [box(1)] if boxes is None else list(boxes),
        }
        body = {"format": 1, "owner": "elsewhere:1", "published_at": time.time(), "runs": dict.fromkeys(runs, one)}
        body |= {"offers": [asdict(offer) for offer in offers], "alerts": []} | more
        await self.store.put(protocol.VIEW_KEY, json.dumps(body).encode())

    async def log(self, name: str, epoch: int, offset: int, text: bytes) -> None:
        await self.store.put(protocol.log_key(name, epoch, "log", offset), zstandard.ZstdCompressor().compress(text))

    async def wishes(self) -> list[str]:
        """Ids of what was asked for."""
        keys = [entry.key for entry in await self.store.list(protocol.INTENTS_PREFIX)]
        return sorted(key.split("/")[-1][:-5] for key in keys if not key.endswith(".done.json"))

    async def answer(self, wish: str, result: str, detail: str = "") -> None:
        body = {"id": wish, "result": result, "detail": detail, "generation": 1, "at": 0.0}
        await self.store.create(protocol.intent_done_key(wish), json.dumps(body).encode())


class Fickle:
    """A store whose network is at the test's mercy: ``error`` is raised by every request, ``hangs`` makes it wait."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.url = store.url
        self.error: Exception | None = None
        self.hangs = False
        self.asked: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        async def ask(*arguments: Any) -> Any:
            self.asked.append((name, str(arguments[0]) if arguments else ""))
            if self.hangs:
                await asyncio.Event().wait()
            if self.error is not None:
                raise self.error
            return await getattr(self._store, name)(*arguments)

        return ask


async def exists(store: Store, key: str) -> bool:
    try:
        await store.get(key)
    except NotFound:
        return False
    return True
