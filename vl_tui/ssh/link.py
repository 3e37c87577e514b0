"""The agent's channel to one box, kept up: connect, install, start the supervisor, attach, and again after every drop.

Journal and log come by cursor (epoch, stream, byte): what is held already is not handed on twice, a gap drops the
channel and asks again from the cursor. The supervisor on the box does not notice any of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import asyncssh
from vl_agent import protocol
from vl_agent.protocol import AgentConfig, Beat, Frame, Hello, ProtocolError, decode, encode

from vl_tui.domain.box import SshAddress
from vl_tui.ssh.bundle import InstallError
from vl_tui.ssh.connection import (
    Channel,
    Connection,
    HostKeyChanged,
    HostKeyUnknown,
    LinkLost,
    LoginRefused,
    SshError,
    Unreachable,
    connect,
)  # fmt: skip
from vl_tui.ssh.hostkeys import Pins
from vl_tui.ssh.install import Install, install_agent

LinkName = Literal["connecting", "installing", "attached", "down", "refused"]

SILENCE_S = 10.0
"""A channel without a beat for so long is dropped and made anew."""
LIVE_S = 15.0
"""How often we tell an attach that we live; it ends itself after 60 s of silence."""
COMMAND_S = 15.0
SUPERVISE_S = 60.0
ATTACH_S = 20.0
REFUSALS = 8
"""A box that is just starting may refuse a login until its keys are in place."""
_MOST_BEFORE_PREAMBLE = 256 * 1024


class Sink(Protocol):
    """Who listens. Called on the loop; must not wait."""

    def beat(self, beat: Beat) -> None: ...
    def data(self, epoch: int, stream: str, offset: int, chunk: bytes) -> None: ...
    def link(self, name: LinkName, words: str) -> None: ...


class BoxLink:
    """``run`` keeps the channel up until it is cancelled, or the box must not be talked to again (``refused``).

    ``config``: asked for each time that the box's supervisor is to be started where none lives (what it holds may have
    been renewed); None: only looks on. ``streams``: which of journal and log
    to receive. ``have``: bytes of each stream of ``epoch`` that the listener holds already.
    """

    def __init__(
        self,
        address: SshAddress,
        *,
        box_id: str,
        run: str,
        launch: int,
        pins: Pins,
        cache: Path,
        sink: Sink,
        config: Callable[[], Awaitable[AgentConfig]] | None = None,
        host_keys: Sequence[str] = (),
        streams: Sequence[str] = ("journal",),
        epoch: int = 0,
        have: Mapping[str, int] | None = None,
    ) -> None:
        self._address, self._box_id, self._host_keys = address, box_id, tuple(host_keys)
        self._run, self._launch, self._config = run, launch, config
        self._pins, self._cache, self._sink = pins, cache, sink
        self._epoch = epoch
        self._have = {stream: (have or {}).get(stream, 0) for stream in streams}
        self._channel: Channel | None = None
        self._attached = False
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._commands = 0
        self._heard = 0.0
        self._name: LinkName = "connecting"

    async def run(self) -> None:
        """Keep the channel up. Returns when the box is ``refused``; otherwise never."""
        tries = refusals = 0
        while True:
            self._tell("connecting", "")
            try:
                await self._session()
            except (HostKeyChanged, HostKeyUnknown, InstallError) as error:
                self._tell("refused", str(error))
                return
            except LoginRefused as error:
                refusals += 1
                if refusals >= REFUSALS:
                    self._tell("refused", str(error))
                    return
                self._tell("down", str(error))
            except (SshError, ProtocolError, asyncssh.Error, OSError) as error:
                self._tell("down", str(error) or type(error).__name__)
            tries = 0 if self._heard and time.monotonic() - self._heard < SILENCE_S + 5 else tries + 1
            await asyncio.sleep(random.uniform(0, min(30.0, 0.5 * 2 ** min(tries, 10))))

    async def command(self, **fields: Any) -> dict[str, Any]:
        """Tell the box's supervisor something and wait for its answer. Raises ``Unreachable`` without a channel,
        ``LinkLost`` when no answer came: it may have been carried out; commands are idempotent."""
        if self._channel is None or not self._attached:
            raise Unreachable(f"{self._run}: there is no channel to box {self._box_id} now")
        self._commands += 1
        number = self._commands
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[number] = answer
        try:
            body = json.dumps({"run": self._run, **fields}).encode()
            self._channel.write(Frame(protocol.FRAME_COMMAND, offset=number, payload=body).encode())
            return await asyncio.wait_for(answer, COMMAND_S)
        except TimeoutError:
            raise LinkLost(f"{self._run}: box {self._box_id} did not answer within {COMMAND_S:.0f} s") from None
        finally:
            del self._replies[number]

    # ------------------------------------------------------------------------------------------------ one session

    async def _session(self) -> None:
        """From connecting to the drop, which it raises."""
        conn = await connect(self._address, box_id=self._box_id, pins=self._pins, host_keys=self._host_keys)
        try:
            self._tell("installing", "")
            install = await install_agent(conn, cache=self._cache)
            if self._config is not None:
                await self._supervise(conn, install, await self._config())
            await self._attach(conn, install)
        finally:
            self._channel, self._attached = None, False
            conn.abort()
            for answer in self._replies.values():
                if not answer.done():
                    answer.set_exception(LinkLost(f"{self._run}: the link to box {self._box_id} dropped"))

    async def _supervise(self, conn: Connection, install: Install, config: AgentConfig) -> None:
        words = ["supervise", "--run", self._run, "--launch", str(self._launch)]
        done = await conn.run(install.command(words), stdin=encode(config), timeout=SUPERVISE_S)
        if done.exit_status != 0:
            told = " ".join(done.stderr.decode(errors="replace").split())[-300:]
            raise Unreachable(f"{conn.name}: the supervisor did not start: {told or 'no reason told'}")

    async def _attach(self, conn: Connection, install: Install) -> None:
        stream = _Stream(self._frame)
        words = ["attach", "--run", self._run, "--launch", str(self._launch)]
        async with asyncio.timeout(ATTACH_S):
            channel = await conn.open(install.command(words), stream.feed, window=2 * protocol.CREDIT)
        self._channel = channel
        hello = Hello(
            protocol.PROTO_MIN, protocol.PROTO_MAX, install.version, install.boot_id, self._run, self._launch,
            self._epoch, dict(self._have),
        )  # fmt: skip
        channel.write(Frame(protocol.FRAME_HELLO, payload=encode(hello)).encode())
        self._heard = time.monotonic()
        told = time.monotonic()
        while not channel.ended.done():
            await asyncio.wait((channel.ended, conn.closed, stream.failed), timeout=1.0,
                               return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
            if stream.failed.done():
                stream.failed.result()
            if conn.closed.done():
                raise LinkLost(f"{conn.name}: the connection dropped")
            now = time.monotonic()
            if now - self._heard > SILENCE_S:
                raise LinkLost(f"{conn.name}: no beat for {SILENCE_S:.0f} s")
            if now - told > LIVE_S:
                told = now
                channel.write(Frame(protocol.FRAME_BEAT).encode())
        words_told = " ".join(channel.stderr.decode(errors="replace").split())[-300:]
        raise LinkLost(f"{conn.name}: attach ended{f': {words_told}' if words_told else ''}")

    def _frame(self, frame: Frame) -> None:
        if frame.type == protocol.FRAME_DATA:
            self._data(frame)
        elif frame.type == protocol.FRAME_BEAT:
            self._heard = time.monotonic()
            self._sink.beat(decode(Beat, frame.payload))
        elif frame.type == protocol.FRAME_EPOCH:
            self._begin(frame.offset)
        elif frame.type == protocol.FRAME_REPLY:
            self._reply(frame)
        elif frame.type == protocol.FRAME_HELLO:
            self._hello(decode(Hello, frame.payload))

    def _hello(self, hello: Hello) -> None:
        if hello.proto_max < protocol.PROTO_MIN or hello.proto_min > protocol.PROTO_MAX:
            raise InstallError(
                f"box {self._box_id}: its agent speaks protocol {hello.proto_min}-{hello.proto_max}, we speak"
                f" {protocol.PROTO_MIN}-{protocol.PROTO_MAX}: use one version of vl-tui."
            )
        if hello.epoch != self._epoch:
            self._begin(hello.epoch)
        self._attached = True
        self._tell("attached", "")

    def _begin(self, epoch: int) -> None:
        """The box began another attempt: its streams start at byte 0."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._have = dict.fromkeys(self._have, 0)

    def _data(self, frame: Frame) -> None:
        name = next((name for name, number in protocol.STREAMS.items() if number == frame.stream), None)
        if name is None or name not in self._have:
            return
        have = self._have[name]
        if frame.offset > have:
            raise ProtocolError(f"box {self._box_id}: a gap in its {name}, from byte {have} to {frame.offset}")
        fresh = frame.payload[have - frame.offset :]
        if fresh:
            self._have[name] = have + len(fresh)
            self._sink.data(self._epoch, name, have, fresh)
        if self._channel is not None:
            with contextlib.suppress(LinkLost):  # the loop around the channel sees it too
                self._channel.write(Frame(protocol.FRAME_ACK, frame.stream, self._have[name]).encode())

    def _reply(self, frame: Frame) -> None:
        answer = self._replies.get(frame.offset)
        if answer is not None and not answer.done():
            try:
                body = json.loads(frame.payload)
            except (ValueError, RecursionError):
                body = None
            if isinstance(body, dict):
                answer.set_result(body)
            else:
                answer.set_exception(LinkLost(f"{self._run}: the answer of box {self._box_id} can't be read"))

    def _tell(self, name: LinkName, words: str) -> None:
        if name != self._name or words:
            self._name = name
            self._sink.link(name, words)


class _Stream:
    """Bytes of an attach channel as frames. What a login shell prints before the preamble is skipped."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._before: bytearray | None = bytearray()
        self._parser = protocol.FrameParser()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def feed(self, chunk: bytes) -> None:
        if self.failed.done():
            return
        try:
            for frame in self._parser.feed(self._after_preamble(chunk)):
                self._handle(frame)
        except (ProtocolError, InstallError) as error:
            self.failed.set_exception(error)

    def _after_preamble(self, chunk: bytes) -> bytes:
        if self._before is None:
            return chunk
        self._before += chunk
        start = self._before.find(protocol.PREAMBLE)
        end = self._before.find(b"\n", start + len(protocol.PREAMBLE)) if start >= 0 else -1
        if end < 0:
            if len(self._before) > _MOST_BEFORE_PREAMBLE:
                raise ProtocolError("no agent speaks on this channel")
            return b""
        rest = bytes(self._before[end + 1 :])
        self._before = None
        return rest
