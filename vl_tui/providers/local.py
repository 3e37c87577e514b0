"""The embedded fleet's pretend providers, over its Unix socket: one line of JSON there and one back.

What a call means is the fleet's business (``vl_tui.demo.fleet``); here are only the wire and a provider's promises.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket as sockets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vl_tui.domain.box import Box, Need, Offer, SshAddress
from vl_tui.providers import base
from vl_tui.providers.base import Caps, Launch, ProviderError, Transient, Unsure

CALL_S = 20.0
"""One call, its way there and back; ending a box takes the longest."""
_LINE_MOST = 8 << 20
_ERRORS: Mapping[str, type[ProviderError]] = {
    kind.__name__: kind
    for kind in (
        base.NoCapacity, base.Quota, base.Auth, base.RateLimited, base.NotFound, base.Invalid, base.Transient,
        base.Unsure,
    )
}  # fmt: skip


class LocalProvider:
    """One pretend provider. It gives spot and on-demand boxes on this machine, with any GPU's name on them."""

    def __init__(self, name: str, socket: Path) -> None:
        self.name = name
        self.caps = Caps(spot=True, lag_s=2.0, self_terminate=True)
        """As the fleet tells them, once it was asked; before, what all of its providers share."""
        self._socket = socket

    async def check(self) -> str:
        """That the fleet is there and has this provider."""
        caps = await self._ask("providers")
        if self.name not in caps:
            raise base.Invalid(f"The embedded fleet has no provider {self.name!r}.", f"It has {', '.join(caps)}.")
        self.caps = Caps(**caps[self.name])
        return "the embedded fleet answers; it needs no credential"

    async def offers(self, need: Need) -> list[Offer]:
        return [Offer(**given) for given in await self._ask("offers", gpu=need.gpu, market=need.market)]

    async def launch(self, launch: Launch) -> Box:
        try:
            given = await self._ask(
                "launch", name=launch.name, place=launch.offer.place, market=launch.offer.market, gpu=launch.offer.gpu,
                tags=dict(launch.tags), public_key=launch.public_key,
            )  # fmt: skip
        except Lost as error:
            raise Unsure(error.words, error.remedy) from None
        return _box(given)

    async def find(self, name: str) -> list[Box]:
        return [_box(given) for given in await self._ask("find", name=name)]

    async def describe(self, ids: Sequence[str]) -> dict[str, Box | None]:
        found = await self._ask("describe", ids=list(ids))
        return {box: _box(given) if given else None for box, given in found.items()}

    async def ours(self, fleet: str) -> list[Box]:
        return [_box(given) for given in await self._ask("ours", fleet=fleet)]

    async def terminate(self, box_id: str) -> None:
        await self._ask("terminate", box=box_id)

    async def close(self) -> None:
        """Nothing is kept open between calls."""

    async def _ask(self, call: str, **fields: Any) -> Any:
        return await ask(self._socket, call, timeout_s=CALL_S, provider=self.name, **fields)


class Lost(Transient):
    """The call was sent, and no answer came: it may have been carried out."""


async def ask(socket: Path, call: str, *, timeout_s: float, **fields: Any) -> Any:
    """One call of the fleet at ``socket``. Raises the ``ProviderError`` that it answers; ``Transient`` when it can't
    be reached, and ``Lost`` when the answer is missing after ``timeout_s`` seconds."""
    sent = False
    try:
        async with asyncio.timeout(timeout_s):
            with socket_address(socket) as address:
                reader, writer = await asyncio.open_unix_connection(address, limit=_LINE_MOST)
            try:
                sent = True
                writer.write(json.dumps({"call": call, **fields}).encode() + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        if sent:
            raise Lost(f"The embedded fleet at {socket} did not answer {call!r} ({_words(error)}).") from None
        raise _absent(socket, error) from None
    if not line.endswith(b"\n"):
        raise Lost(f"The embedded fleet at {socket} hung up before it answered {call!r}.")
    return _result(line)


def names(socket: Path, timeout_s: float = 2.0) -> list[str]:
    """The fleet's pretend providers. Blocks. Raises ``Transient`` when it can't be reached."""
    try:
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as line, socket_address(socket) as address:
            line.settimeout(timeout_s)
            line.connect(address)
            line.sendall(b'{"call": "providers"}\n')
            with line.makefile("rb") as answer:
                return list(_result(answer.readline()))
    except (OSError, ValueError) as error:
        raise _absent(socket, error) from None


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """An address for the Unix socket ``path`` that fits into the 108 bytes there are, however long the path is."""
    if len(os.fsencode(path)) < 100:
        yield str(path)
        return
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def _result(line: bytes) -> Any:
    answer = json.loads(line)
    if "error" in answer:
        error = answer["error"]
        raise _ERRORS[error["kind"]](error["words"], error["remedy"], error["place"])
    return answer["ok"]


def _box(given: dict[str, Any]) -> Box:
    where = given["ssh"]
    address = SshAddress(**{**where, "key_paths": tuple(where["key_paths"])}) if where else None
    return Box(**{**given, "ssh": address, "host_keys": tuple(given["host_keys"])})


def _absent(socket: Path, error: Exception) -> Transient:
    return Transient(
        f"The embedded fleet at {socket} can't be reached ({_words(error)}).",
        "It lives as long as the `vl-tui demo` that started it.",
    )


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
