"""Streams the open run's log: first what the store has of attempts that are over, then live from each box in turn; from
the store again where the box can't be talked to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from vl_tui.app.facts import Facts, RunFacts, number
from vl_tui.app.log import LogStore
from vl_tui.config import FleetConfig
from vl_tui.domain.box import SshAddress

if TYPE_CHECKING:
    from vl_agent.store import Store

LOOK_S = 1.0
FROM_STORE_S = 3.0
"""How often the store is asked for more of a log that can't be had from its box."""


class Source(Protocol):
    """Where the facts are, and whom to tell that the log has grown."""

    @property
    def facts(self) -> Facts: ...
    @property
    def log(self) -> LogStore: ...
    @property
    def store(self) -> Store | None: ...
    def changed(self) -> None: ...


class Tail:
    """Follows one run at a time. Everything here runs in the reader's loop."""

    def __init__(self, source: Source, fleet: FleetConfig) -> None:
        self._source, self._fleet = source, fleet
        self._run = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._whole: set[int] = set()
        """Attempts that are over and whose log was read from the store since."""

    def follow(self, run: str | None) -> None:
        if (run or "") == self._run:
            return
        self._run, self._whole = run or "", set()
        for task in self.ending():
            task.cancel()
        self._source.log.clear()
        if run is not None:
            self._tasks = [asyncio.get_running_loop().create_task(self._keep_streaming(run))]

    def ending(self) -> list[asyncio.Task[None]]:
        """The tasks under way, given up."""
        tasks, self._tasks = self._tasks, []
        return tasks

    async def _keep_streaming(self, name: str) -> None:
        while True:
            try:
                await self._stream(name)
            except Exception as error:  # noqa: BLE001 - said above the log, and tried again
                self._source.log.link = f"interrupted: {type(error).__name__}"
                self._source.changed()
            await asyncio.sleep(FROM_STORE_S)

    async def _stream(self, name: str) -> None:
        channel: asyncio.Task[None] | None = None
        held = (-1, -1)
        try:
            while True:
                run = self._source.facts.run(name)
                if run is not None:
                    box, wanted = reachable(run), (run.head.epoch, run.head.launch)
                    if channel is not None and (box is None or wanted != held):
                        await _end(channel)
                        channel, self._source.log.link = None, ""
                    if not self._attached(channel) or held != wanted:
                        await self._from_store(run)
                    if box is not None and channel is None:
                        held, self._source.log.link = wanted, "connecting"
                        channel = asyncio.create_task(self._from_box(run, box))
                soon = run is None or (run.live and channel is None) or self._attached(channel)
                await asyncio.sleep(LOOK_S if soon else FROM_STORE_S)
        finally:
            if channel is not None:
                await _end(channel)

    def _attached(self, channel: asyncio.Task[None] | None) -> bool:
        """Whether the box itself tells."""
        return channel is not None and not channel.done() and self._source.log.link == ""

    async def _from_store(self, run: RunFacts) -> None:
        """What the store has and is not shown yet."""
        from vl_agent.store import StoreError

        from vl_tui.store import logs

        store, log = self._source.store, self._source.log
        if store is None:
            return
        with contextlib.suppress(StoreError):
            for epoch in sorted(await logs.epochs(store, run.name)):
                if epoch in self._whole:
                    continue
                ranges = await logs.ranges(store, run.name, epoch)
                for index, (offset, key) in enumerate(ranges):
                    if index + 1 < len(ranges) and ranges[index + 1][0] <= log.size(epoch):
                        continue
                    log.add(epoch, offset, await logs.read(store, key))
                    self._source.changed()
                if epoch < run.head.epoch or not run.live:
                    self._whole.add(epoch)

    async def _from_box(self, run: RunFacts, box: Mapping[str, Any]) -> None:
        """Until it is cancelled, or the box must not be talked to."""
        from vl_tui.ssh.hostkeys import Pins
        from vl_tui.ssh.link import BoxLink

        epoch = run.head.epoch
        link = BoxLink(
            address(box), box_id=str(box.get("box_id")), run=run.name, launch=run.head.launch,
            pins=Pins(self._fleet.state_dir / "pins"), cache=self._fleet.cache_dir, sink=_Sink(self._source),
            host_keys=[str(key) for key in box.get("host_keys") or ()], streams=("log",),
            epoch=epoch, have={"log": self._source.log.size(epoch)},
        )  # fmt: skip
        await link.run()


class _Sink:
    """Passes a box's log on."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def beat(self, beat: Any) -> None:
        return

    def data(self, epoch: int, stream: str, offset: int, chunk: bytes) -> None:
        self._source.log.add(epoch, offset, chunk)
        self._source.changed()

    def link(self, name: str, words: str) -> None:
        told = "" if name == "attached" else f"{name}: {words}" if words else name
        self._source.log.link = told
        self._source.changed()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def reachable(run: RunFacts) -> Mapping[str, Any] | None:
    """The box that holds the run's epoch, if the controller told where it is."""
    if not run.live:
        return None
    for box in run.boxes:
        if box.get("launch") == run.head.launch and isinstance(box.get("ssh"), dict):
            return box if not box.get("given_up") and address(box).host else None
    return None


def address(box: Mapping[str, Any]) -> SshAddress:
    """Where the box is, as far as the view's own words make sense."""
    ssh = box["ssh"]
    keys = ssh.get("key_paths")
    return SshAddress(
        host=str(ssh.get("host", "")), port=int(number(ssh, "port")) or 22, user=str(ssh.get("user", "")),
        key_paths=tuple(str(key) for key in keys) if isinstance(keys, list) else (), alias=str(ssh.get("alias", "")),
    )  # fmt: skip
