"""Attach: from whatever cursor, cut off wherever, an operator ends up with every byte once and in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vl_agent import channel, protocol
from vl_agent.channel import Attach, Gone
from vl_agent.paths import LaunchFolder
from vl_agent.protocol import Frame, FrameParser, Hello, ProtocolError, encode

from tests.agent.protected import until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "LOOK_S", 0.001)


class Wire:
    """What ``attach`` writes to, in memory; after ``most`` bytes the connection is cut."""

    def __init__(self, most: int) -> None:
        self.bytes, self._most = bytearray(), most

    def write(self, data: bytes) -> None:
        self.bytes += data[: max(0, self._most - len(self.bytes))]

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def is_closing(self) -> bool:
        return len(self.bytes) >= self._most


class Operator:
    """The other end: holds what it took in, through any number of connections."""

    def __init__(self, folder: LaunchFolder) -> None:
        self.folder = folder
        self.epoch = 0
        self.held: dict[tuple[int, str], bytes] = {}
        self.beats: list[bytes] = []
        self.hello: dict[str, Any] = {}

    def have(self) -> Mapping[str, int]:
        return {name: len(self.held.get((self.epoch, name), b"")) for name in protocol.STREAMS}

    async def connect(self, until_: Any, *, most: int = 1 << 30, acks: bool = True, within_s: float = 20) -> None:
        """One connection, until it is cut or ``until_()`` holds."""
        wire, reader = Wire(most), asyncio.StreamReader()
        hello = Hello(1, 1, "test", "", "char", 1, self.epoch, self.have())
        reader.feed_data(Frame(protocol.FRAME_HELLO, payload=encode(hello)).encode())
        serving = asyncio.create_task(Attach(self.folder, "char", 1, wire).serve(reader))  # type: ignore[arg-type]
        parser, at = FrameParser(), 0
        preamble = len(protocol.PREAMBLE) + 17

        def look() -> bool:
            nonlocal at
            if at == 0 and len(wire.bytes) >= preamble:
                assert wire.bytes.startswith(protocol.PREAMBLE)
                at = preamble
            new, at = bytes(wire.bytes[at:]), len(wire.bytes) if at else 0
            for frame in parser.feed(new) if at else []:
                self._take(frame, reader if acks else None)
            if wire.is_closing():
                reader.feed_eof()
            return serving.done() or until_()

        try:
            await until(look, "the streams", within_s)
        finally:
            serving.cancel()
            with contextlib.suppress(Gone, asyncio.CancelledError):
                await serving

    def _take(self, frame: Frame, acks: asyncio.StreamReader | None) -> None:
        if frame.type == protocol.FRAME_HELLO:
            self.hello = json.loads(frame.payload)
            self.epoch = self.hello["epoch"]
        elif frame.type == protocol.FRAME_EPOCH:
            self.epoch = frame.offset
        elif frame.type == protocol.FRAME_BEAT:
            self.beats.append(frame.payload)
        elif frame.type == protocol.FRAME_DATA:
            name = next(name for name, number in protocol.STREAMS.items() if number == frame.stream)
            held = self.held.get((self.epoch, name), b"")
            assert frame.offset == len(held), "nothing lost, nothing repeated"
            self.held[self.epoch, name] = held + frame.payload
            if acks is not None:
                acks.feed_data(Frame(protocol.FRAME_ACK, frame.stream, len(held) + len(frame.payload)).encode())


def launch(folder: Path, epochs: Mapping[int, tuple[bytes, bytes]]) -> LaunchFolder:
    made = LaunchFolder(folder / "launch")
    for epoch, (journal, log) in epochs.items():
        made.epoch(epoch).path.mkdir(parents=True)
        made.epoch(epoch).journal.write_bytes(journal)
        made.epoch(epoch).log.write_bytes(log)
    return made


def all_of(epochs: Mapping[int, tuple[bytes, bytes]]) -> dict[tuple[int, str], bytes]:
    both = {
        (epoch, name): data for epoch, pair in epochs.items() for name, data in zip(protocol.STREAMS, pair, strict=True)
    }
    return {key: data for key, data in both.items() if data}


EPOCHS = st.dictionaries(
    st.integers(1, 9), st.tuples(st.binary(max_size=300), st.binary(max_size=300)), min_size=1, max_size=3
)


@settings(max_examples=60, deadline=None)
@given(EPOCHS, st.lists(st.integers(0, 900), max_size=5), st.integers(0, 300))
def test_cut_at_any_byte_and_resumed_every_byte_comes_once(
    epochs: dict[int, tuple[bytes, bytes]], cuts: list[int], first: int
) -> None:
    """An operator that holds some of the first epoch goes on from there, cut off again and again."""
    with tempfile.TemporaryDirectory() as folder:
        operator = Operator(launch(Path(folder), epochs))
        wanted = all_of(epochs)
        operator.epoch = min(epochs)
        for name in protocol.STREAMS:
            held = wanted.get((operator.epoch, name), b"")[:first]
            operator.held.update({(operator.epoch, name): held} if held else {})

        async def connect_again_and_again() -> None:
            for cut in cuts:
                await operator.connect(lambda: operator.held == wanted, most=cut)
            await operator.connect(lambda: operator.held == wanted)

        asyncio.run(connect_again_and_again())
        assert operator.held == wanted


async def test_what_is_appended_meanwhile_follows(tmp_path: Path) -> None:
    folder = launch(tmp_path, {1: (b"a", b"b")})
    operator = Operator(folder)
    grown = 0

    def grows() -> bool:
        nonlocal grown
        if grown < 50:
            grown += 1
            with folder.epoch(1).log.open("ab") as log:
                log.write(b"%d\n" % grown * 999)
        if grown == 50 and 2 not in folder.epochs():
            folder.epoch(2).path.mkdir()
            folder.epoch(2).journal.write_bytes(b"new")
        return operator.held.get((2, "journal")) == b"new"

    await operator.connect(grows)
    assert operator.held[1, "log"] == folder.epoch(1).log.read_bytes(), "an epoch is sent to its end first"


async def test_one_who_holds_nothing_begins_with_the_newest_epoch(tmp_path: Path) -> None:
    operator = Operator(launch(tmp_path, {1: (b"old", b""), 2: (b"new", b"")}))
    await operator.connect(lambda: operator.held)
    assert operator.held == {(2, "journal"): b"new"}
    assert operator.hello["have"] == {"journal": 3, "log": 0}


async def test_one_who_reads_but_takes_nothing_in_is_sent_no_more_than_its_credit(tmp_path: Path) -> None:
    operator = Operator(launch(tmp_path, {1: (b"j", b"x" * (protocol.CREDIT * 3))}))
    full = asyncio.Event()

    def sent() -> bool:
        if len(operator.held.get((1, "log"), b"")) >= protocol.CREDIT:
            full.set()
        return False

    with pytest.raises(AssertionError, match="not within"):
        await operator.connect(sent, acks=False, within_s=1)
    assert full.is_set()
    assert len(operator.held[1, "log"]) < protocol.CREDIT + (64 << 10)


async def test_the_supervisors_own_beat_is_relayed_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead supervisor's beat stands still, whatever attach does."""
    from vl_agent.status import Status

    monkeypatch.setattr(channel, "BEAT_S", 0.01)
    folder = launch(tmp_path, {1: (b"j", b"")})
    status = Status(1, epoch=1)
    folder.beat.write_bytes(encode(status.beat()))
    operator = Operator(folder)
    await operator.connect(lambda: len(operator.beats) > 3)
    assert {json.loads(beat)["counter"] for beat in operator.beats} == {1}
    folder.beat.write_bytes(b"{")
    operator.beats.clear()
    await operator.connect(lambda: operator.beats)
    assert operator.beats[0] == b"{", "what is on disk is the operator's to judge"


async def served(folder: LaunchFolder, *sent: bytes) -> None:
    reader = asyncio.StreamReader()
    for data in sent:
        reader.feed_data(data)
    await asyncio.wait_for(Attach(folder, "char", 1, Wire(1 << 30)).serve(reader), 10)  # type: ignore[arg-type]


async def test_an_end_that_says_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "SILENCE_S", 0.1)
    with pytest.raises(Gone, match="nothing heard"):
        await served(launch(tmp_path, {1: (b"", b"")}))


@pytest.mark.parametrize(
    "sent",
    [
        Frame(protocol.FRAME_HELLO, payload=b"{").encode(),
        Frame(protocol.FRAME_HELLO, payload=encode(Hello(7, 9, "x", "", "char", 1, 0))).encode(),
        b"\xff" * 100,
        Frame(protocol.FRAME_HELLO, payload=b"{}").encode()[:-1] + b"x",
    ],
)
async def test_an_end_that_speaks_another_language_is_left(tmp_path: Path, sent: bytes) -> None:
    with pytest.raises(ProtocolError):
        await served(launch(tmp_path, {1: (b"", b"")}), sent)


@pytest.mark.parametrize("have", [{"journal": -5}, {"journal": 10**18, "log": 10**18}, {"other": 3}])
async def test_a_cursor_that_is_none_breaks_nothing(tmp_path: Path, have: dict[str, int]) -> None:
    folder = launch(tmp_path, {1: (b"journal", b"log")})
    reader, wire = asyncio.StreamReader(), Wire(1 << 30)
    reader.feed_data(Frame(protocol.FRAME_HELLO, payload=encode(Hello(1, 1, "x", "", "char", 1, 1, have))).encode())
    serving = asyncio.create_task(Attach(folder, "char", 1, wire).serve(reader))  # type: ignore[arg-type]
    await until(lambda: len(wire.bytes) > 100 or serving.done())
    reader.feed_eof()
    with pytest.raises((Gone, ProtocolError)):
        await asyncio.wait_for(serving, 10)


async def test_acks_beyond_what_was_sent_give_no_credit(tmp_path: Path) -> None:
    attach = Attach(launch(tmp_path, {1: (b"abc", b"")}), "char", 1, Wire(1 << 30))  # type: ignore[arg-type]
    attach._take(Frame(protocol.FRAME_HELLO, payload=encode(Hello(1, 1, "", "", "char", 1, 0, {"journal": 0}))))
    attach._take(Frame(protocol.FRAME_ACK, protocol.STREAM_JOURNAL, 1 << 40))
    assert attach._acked == {"journal": 0}
