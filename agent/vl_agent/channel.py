"""``vl-agent attach``: one operator connection. Streams journal and log of the attempt from the operator's cursor,
relays the supervisor's own beat (never its own life), hands commands over. Stateless: it may die at any time.

It ends itself at the end of stdin, when nobody reads, and after a minute without a word: a connection whose other end
is gone would otherwise stay for hours.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from pathlib import Path

from vl_agent import paths, processes, protocol
from vl_agent.protocol import Beat, Frame, FrameParser, Hello, ProtocolError, decode, encode

LOOK_S = 0.1
BEAT_S = 1.0
SILENCE_S = 60.0
COMMAND_S = 10.0
_CHUNK = 60 * 1024


class Gone(Exception):
    """The other end is gone."""


class NobodyThere(Exception):
    """No supervisor lives here: a command was certainly not carried out."""


class Attach:
    """One connection. Order of what is sent: answers, beat, journal, log."""

    def __init__(self, folder: paths.LaunchFolder, run: str, launch: int, writer: asyncio.StreamWriter) -> None:
        self._folder, self._run, self._launch, self._writer = folder, run, launch, writer
        self._epoch = 0
        self._sent: dict[str, int] = {}
        self._acked: dict[str, int] = {}
        self._heard = time.monotonic()
        self._commands: set[asyncio.Task[None]] = set()
        self._over = False

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Until the other end is gone."""
        self._writer.write(protocol.PREAMBLE + secrets.token_hex(8).encode() + b"\n")
        parser = FrameParser()
        listening = asyncio.create_task(self._listen(reader, parser))
        speaking = asyncio.create_task(self._speak())
        try:
            await asyncio.wait({listening, speaking}, return_when=asyncio.FIRST_COMPLETED)
            for task in (listening, speaking):
                if task.done():
                    task.result()
        finally:
            self._over = True
            for one in (listening, speaking, *self._commands):
                one.cancel()
            await asyncio.gather(listening, speaking, *self._commands, return_exceptions=True)

    async def _listen(self, reader: asyncio.StreamReader, parser: FrameParser) -> None:
        while not self._over:  # up to Python 3.11 ``wait_for`` forgets a cancellation that meets its result
            try:
                chunk = await asyncio.wait_for(reader.read(65536), SILENCE_S)
            except asyncio.TimeoutError:
                raise Gone(f"nothing heard for {SILENCE_S:.0f} s") from None
            if not chunk:
                raise Gone("end of input")
            for frame in parser.feed(chunk):
                self._take(frame)

    def _take(self, frame: Frame) -> None:
        if frame.type == protocol.FRAME_HELLO:
            self._hello(decode(Hello, frame.payload))
        elif frame.type == protocol.FRAME_ACK:
            for name, number in protocol.STREAMS.items():
                if number == frame.stream and name in self._acked:
                    self._acked[name] = max(self._acked[name], min(frame.offset, self._sent[name]))
        elif frame.type == protocol.FRAME_COMMAND and len(self._commands) < 16:
            task = asyncio.create_task(self._command(frame))
            self._commands.add(task)
            task.add_done_callback(self._commands.discard)

    def _hello(self, theirs: Hello) -> None:
        if theirs.proto_max < protocol.PROTO_MIN or theirs.proto_min > protocol.PROTO_MAX:
            raise ProtocolError(f"they speak protocol {theirs.proto_min}-{theirs.proto_max}: one version is needed")
        epochs = self._folder.epochs()  # an epoch that they hold a part of is sent to its end first
        self._epoch = theirs.epoch if theirs.epoch in epochs else max(epochs, default=0)
        same = theirs.epoch == self._epoch
        self._sent = {name: theirs.have[name] if same else 0 for name in theirs.have if name in protocol.STREAMS}
        self._acked = dict(self._sent)
        mine = Hello(
            protocol.PROTO_MIN, protocol.PROTO_MAX, paths.site_folder().parent.name, processes.boot_id(), self._run,
            self._launch, self._epoch, {name: self._size(name) for name in protocol.STREAMS},
        )  # fmt: skip
        self._send(Frame(protocol.FRAME_HELLO, payload=encode(mine)))
        self._said_hello = True

    _said_hello = False

    async def _speak(self) -> None:
        told = b""
        beat_at = 0.0
        while True:
            if self._said_hello:
                now = time.monotonic()
                beat = self._beat()
                if beat and (now - beat_at >= BEAT_S or self._is_news(told, beat)):
                    told, beat_at = beat, now
                    self._send(Frame(protocol.FRAME_BEAT, payload=beat))
                if not self._pump():
                    self._next_epoch()
            await self._writer.drain()
            await asyncio.sleep(LOOK_S)

    def _beat(self) -> bytes:
        try:
            return self._folder.beat.read_bytes()
        except OSError:
            return b""

    @staticmethod
    def _is_news(before: bytes, now: bytes) -> bool:
        """A change of phase or a notice does not wait for the next second."""
        if before == now:
            return False
        if not before:
            return True
        try:
            old, new = decode(Beat, before), decode(Beat, now)
        except ProtocolError:
            return True
        was = (old.phase, old.epoch, old.notice_deadline, bool(old.at_risk))
        return was != (new.phase, new.epoch, new.notice_deadline, bool(new.at_risk))

    def _pump(self) -> bool:
        """Send what there is within the credit; the journal goes first. False: nothing was left to send."""
        more = False
        for name in ("journal", "log"):
            while name in self._sent and self._sent[name] - self._acked[name] < protocol.CREDIT:
                chunk = self._read(name, self._sent[name])
                if not chunk:
                    break
                self._send(Frame(protocol.FRAME_DATA, protocol.STREAMS[name], self._sent[name], chunk))
                self._sent[name] += len(chunk)
                more = True
        return more or any(self._sent[name] < self._size(name) for name in self._sent)

    def _next_epoch(self) -> None:
        """Only once the streams of the epoch before are sent whole."""
        following = [epoch for epoch in self._folder.epochs() if epoch > self._epoch]
        if following:
            self._epoch = following[0]
            self._sent = dict.fromkeys(self._sent, 0)
            self._acked = dict(self._sent)
            self._send(Frame(protocol.FRAME_EPOCH, offset=self._epoch))

    def _path(self, name: str) -> Path:
        folder = self._folder.epoch(self._epoch)
        return folder.journal if name == "journal" else folder.log

    def _size(self, name: str) -> int:
        try:
            return self._path(name).stat().st_size
        except OSError:
            return 0

    def _read(self, name: str, offset: int) -> bytes:
        try:
            with self._path(name).open("rb") as file:
                file.seek(offset)
                return file.read(_CHUNK)
        except OSError:
            return b""

    async def _command(self, frame: Frame) -> None:
        """A supervisor that was told and did not answer may still do it: then nothing is said, and the operator's own
        limit makes it "unknown". Only what certainly did not reach it is a no."""
        try:
            answer = await asyncio.wait_for(_ask(frame.payload), COMMAND_S)
        except NobodyThere:
            answer = json.dumps({"ok": False, "detail": "no supervisor answers on this box"}).encode()
        except (OSError, ValueError, asyncio.TimeoutError):
            return
        if answer:
            self._send(Frame(protocol.FRAME_REPLY, offset=frame.offset, payload=answer[: protocol.MAX_PAYLOAD]))

    def _send(self, frame: Frame) -> None:
        if self._writer.is_closing():
            raise Gone("nobody reads")
        self._writer.write(frame.encode())


async def _ask(command: bytes) -> bytes:
    """One command to the supervisor's socket; empty: it was told, and ended without an answer. Raises
    ``NobodyThere`` when none listens, ``OSError`` when the answer was lost."""
    try:
        reader, writer = await asyncio.open_unix_connection("socket")
    except OSError as error:
        raise NobodyThere from error
    try:
        writer.write(command.replace(b"\n", b" ") + b"\n")
        await writer.drain()
        return (await reader.readline()).strip()
    finally:
        writer.close()


async def attach(run: str, launch: int) -> int:
    """Serve one connection on stdin and stdout. Exit status 0: the other end is gone; 2: there is no such launch."""
    folder = paths.launch_folder(run, launch)
    if not folder.path.is_dir():
        print(f"vl-agent: no launch {launch} of {run} on this box", file=sys.stderr)
        return 2
    os.chdir(folder.path)  # the socket is reached by its bare name: a path may have 108 bytes
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    transport, proto = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout.buffer)
    writer = asyncio.StreamWriter(transport, proto, None, loop)
    try:
        await Attach(folder, run, launch, writer).serve(reader)
    except (Gone, ConnectionError, ProtocolError) as why:
        print(f"vl-agent: attach ends: {why}", file=sys.stderr)
    return 0
