"""The channel to a box as the controller uses it; ``vl_tui.controller.boxes`` makes the real one, over SSH."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from vl_agent.protocol import Beat, LaunchRecord, RunSpec

from vl_tui.domain.box import Box

LinkName = Literal["connecting", "installing", "attached", "down", "refused"]


class Heard(Protocol):
    """Who listens to a channel. Called on the loop, must not wait."""

    def beat(self, beat: Beat) -> None: ...
    def link(self, name: LinkName, words: str) -> None: ...


class Link(Protocol):
    """One box's channel: connects, installs the agent, starts its supervisor where none lives, reconnects for ever.
    ``run`` ends only when the box must not be talked to again; cancelling it is how the link is dropped."""

    async def run(self) -> None: ...

    async def command(self, **fields: Any) -> Reply:
        """Raises ``LinkDown`` when no answer came: it may have been carried out, commands are idempotent."""
        ...


class LinkDown(Exception):
    """The box could not be told."""


class Connect(Protocol):
    """Makes a box's link. ``supervise``: start its agent where none lives; else only look on."""

    def __call__(self, spec: RunSpec, record: LaunchRecord, box: Box, ear: Heard, *, supervise: bool) -> Link: ...


@dataclass(frozen=True)
class Reply:
    """What a box answered to a command."""

    ok: bool
    detail: str

    @staticmethod
    def parse(body: Mapping[str, Any]) -> Reply:
        return Reply(body.get("ok") is True, str(body.get("detail", ""))[:300])
