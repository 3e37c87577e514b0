"""The real channel to a box: the SSH plane's ``BoxLink``, given what a box of this fleet may know."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from vl_agent.protocol import AgentConfig, Beat, LaunchRecord, RunSpec

from vl_tui.config import FleetConfig
from vl_tui.controller.credentials import Credentials
from vl_tui.controller.links import Heard, Link, LinkDown, LinkName, Reply
from vl_tui.controller.private import Secrets
from vl_tui.domain.box import Box
from vl_tui.ssh.connection import SshError
from vl_tui.ssh.hostkeys import Pins
from vl_tui.ssh.link import BoxLink
from vl_tui.store.scoped import Scoped

RENEW_LOOK_S = 20.0
"""Between two looks whether a box's credentials are to be renewed; they last a quarter of an hour at least."""


class Boxes:
    """Makes links. Holds the store's credentials and the secrets' folder: what goes to a box goes over SSH only."""

    def __init__(self, fleet: FleetConfig, credentials: Credentials, secrets: Secrets) -> None:
        self._fleet, self._credentials, self._secrets = fleet, credentials, secrets
        self._pins = Pins(fleet.state_dir / "pins")

    def connect(self, spec: RunSpec, record: LaunchRecord, box: Box, ear: Heard, *, supervise: bool) -> Link:
        assert box.ssh is not None
        sink = _Sink(ear)
        link = BoxLink(
            box.ssh,
            box_id=box.id,
            run=spec.name,
            launch=record.number,
            pins=self._pins,
            cache=Path(self._fleet.cache_dir),
            sink=sink,
            config=partial(self._config, spec, record, box) if supervise else None,
            host_keys=box.host_keys,
            streams=(),
        )
        return _Linked(link, partial(self._credentials.of, spec.name) if supervise else None, sink)

    async def _config(self, spec: RunSpec, record: LaunchRecord, box: Box) -> AgentConfig:
        """Raises ``Unreachable`` when there are no credentials to give."""
        given = await self._credentials.of(spec.name)
        return AgentConfig(
            run=spec.name,
            fleet=self._fleet.fleet,
            launch=record.number,
            store=self._fleet.store,
            store_options=given.options,
            store_how=given.how,
            store_warning=given.warning,
            secrets=self._secrets.of(spec),
            beat_s=self._fleet.defaults.beat,
            box=box.id,
            owned=record.market == "owned",
            losses_per_hour=record.losses_per_hour,
        )


class _Linked:
    """``BoxLink`` as a ``Link``; brings the box new credentials before its old ones end."""

    def __init__(self, link: BoxLink, credentials: Callable[[], Awaitable[Scoped]] | None, sink: _Sink) -> None:
        self._link, self._credentials, self._sink = link, credentials, sink

    async def run(self) -> None:
        renewing = asyncio.create_task(self._keep_renewing(self._credentials)) if self._credentials else None
        try:
            await self._link.run()
        finally:
            if renewing is not None:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)

    async def _keep_renewing(self, credentials: Callable[[], Awaitable[Scoped]]) -> None:
        """A box is told what it may hold already, too: a controller that comes after a crash does not know."""
        told: Scoped | None = None
        while True:
            await self._sink.attached.wait()
            with contextlib.suppress(SshError):
                found = await credentials()
                if found.expires_at is not None and found is not told:
                    reply = await self._link.command(
                        command="credentials", credentials=dict(found.options), how=found.how
                    )
                    told = found if reply.get("ok") is True else told
            await asyncio.sleep(RENEW_LOOK_S)

    async def command(self, **fields: Any) -> Reply:
        try:
            return Reply.parse(await self._link.command(**fields))
        except SshError as error:
            raise LinkDown(str(error)) from error


class _Sink:
    """The streams are the app's: here only beats and the link's state are heard."""

    def __init__(self, ear: Heard) -> None:
        self._ear = ear
        self.attached = asyncio.Event()

    def beat(self, beat: Beat) -> None:
        self._ear.beat(beat)

    def data(self, epoch: int, stream: str, offset: int, chunk: bytes) -> None:
        return

    def link(self, name: LinkName, words: str) -> None:
        if name == "attached":
            self.attached.set()
        else:
            self.attached.clear()
        self._ear.link(name, words)
