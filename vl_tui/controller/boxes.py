"""The real channel to a box: the SSH plane's ``BoxLink``, given what a box of this fleet may know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vl_agent.protocol import AgentConfig, Beat, LaunchRecord, RunSpec

from vl_tui.config import FleetConfig
from vl_tui.controller.links import Heard, Link, LinkDown, LinkName, Reply
from vl_tui.controller.private import Secrets
from vl_tui.domain.box import Box
from vl_tui.ssh.connection import SshError
from vl_tui.ssh.hostkeys import Pins
from vl_tui.ssh.link import BoxLink


class Boxes:
    """Makes links. Holds the store's credentials and the secrets' folder: what goes to a box goes over SSH only."""

    def __init__(self, fleet: FleetConfig, store_options: Mapping[str, str], secrets: Secrets) -> None:
        self._fleet, self._store_options, self._secrets = fleet, dict(store_options), secrets
        self._pins = Pins(fleet.state_dir / "pins")

    def connect(self, spec: RunSpec, record: LaunchRecord, box: Box, ear: Heard, *, supervise: bool) -> Link:
        assert box.ssh is not None
        return _Linked(
            BoxLink(
                box.ssh,
                box_id=box.id,
                run=spec.name,
                launch=record.number,
                pins=self._pins,
                cache=Path(self._fleet.cache_dir),
                sink=_Sink(ear),
                config=self._config(spec, record, box) if supervise else None,
                host_keys=box.host_keys,
                streams=(),
            )
        )

    def _config(self, spec: RunSpec, record: LaunchRecord, box: Box) -> AgentConfig:
        return AgentConfig(
            run=spec.name,
            fleet=self._fleet.fleet,
            launch=record.number,
            store=self._fleet.store,
            store_options=self._store_options,
            secrets=self._secrets.of(spec),
            beat_s=self._fleet.defaults.beat,
            box=box.id,
            owned=record.market == "owned",
            losses_per_hour=record.losses_per_hour,
        )


class _Linked:
    """``BoxLink`` as a ``Link``."""

    def __init__(self, link: BoxLink) -> None:
        self._link = link

    async def run(self) -> None:
        await self._link.run()

    async def command(self, **fields: Any) -> Reply:
        try:
            return Reply.parse(await self._link.command(**fields))
        except SshError as error:
            raise LinkDown(str(error)) from error


class _Sink:
    """The streams are the app's: here only beats and the link's state are heard."""

    def __init__(self, ear: Heard) -> None:
        self._ear = ear

    def beat(self, beat: Beat) -> None:
        self._ear.beat(beat)

    def data(self, epoch: int, stream: str, offset: int, chunk: bytes) -> None:
        return

    def link(self, name: LinkName, words: str) -> None:
        self._ear.link(name, words)
