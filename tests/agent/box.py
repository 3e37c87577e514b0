"""A launched box on this machine: its supervisor, started as over SSH, and ``attach`` connections to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vl_agent import head as heads
from vl_agent import processes, protocol
from vl_agent.protocol import (
    AgentConfig,
    Beat,
    CheckpointPolicy,
    Event,
    Frame,
    FrameParser,
    Head,
    Hello,
    RunSpec,
    decode,
    encode,
    parse_event,
)  # fmt: skip
from vl_agent.store import Store

from tests.agent.protected import train, until

AGENT = [sys.executable, "-m", "vl_agent"]


class Attached:
    """One ``attach`` connection: an operator's end of it. ``have``: bytes of each stream taken in before."""

    def __init__(self, box: Box, *, epoch: int = 0, have: Mapping[str, int] | None = None) -> None:
        self._box = box
        self.epoch = epoch
        self.have = dict(have or {"journal": 0, "log": 0})
        self.streams: dict[tuple[int, str], bytes] = {}
        self.first: dict[tuple[int, str], int] = {}
        self.beats: list[Beat] = []
        self.epochs: list[int] = []
        self.hello: Hello | None = None
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Attached:
        self._process = await asyncio.create_subprocess_exec(
            *AGENT, "attach", "--run", self._box.run, "--launch", str(self._box.launch), env=self._box.env,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        hello = Hello(1, 1, "test", "", self._box.run, self._box.launch, self.epoch, dict(self.have))
        self.send(Frame(protocol.FRAME_HELLO, payload=encode(hello)))
        self._reading = asyncio.create_task(self._read())
        await until(lambda: self.hello, "attach says hello")
        return self

    async def __aexit__(self, *_: object) -> None:
        """kill -9 of ``attach``."""
        assert self._process is not None
        assert self._reading is not None
        self._reading.cancel()
        (failed,) = await asyncio.gather(self._reading, return_exceptions=True)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.communicate()
        if isinstance(failed, Exception):
            raise failed

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def ended(self) -> int:
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), 30)

    def send(self, frame: Frame) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(frame.encode())

    def hang_up(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def command(self, name: str, **fields: Any) -> dict[str, Any]:
        """The supervisor's answer to a command."""
        number = len(self._replies) + 1
        answer = self._replies[number] = asyncio.get_running_loop().create_future()
        body = json.dumps({"run": self._box.run, "command": name, **fields}).encode()
        self.send(Frame(protocol.FRAME_COMMAND, offset=number, payload=body))
        return await asyncio.wait_for(answer, 20)

    def journal(self, epoch: int | None = None) -> list[Event]:
        """Events that came by this connection, of its newest epoch."""
        lines = self.streams.get((self.epoch if epoch is None else epoch, "journal"), b"").split(b"\n")[:-1]
        return [parse_event(line) for line in lines]

    async def event(self, kind: str, within_s: float = 30, **fields: Any) -> Event:
        """The first event of a kind with these fields, once it has come."""

        def look() -> Event | None:
            for event in self.journal():
                if event.kind == kind and all(event.fields.get(name) == value for name, value in fields.items()):
                    return event
            return None

        found: Event = await until(look, f"{kind} {fields}", within_s)
        return found

    async def phase(self, phase: str) -> Beat:
        """The newest beat, once it is of this phase."""
        await until(lambda: self.beats and self.beats[-1].phase == phase, f"phase {phase}")
        return self.beats[-1]

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        preamble = await self._process.stdout.readuntil(protocol.PREAMBLE)
        assert preamble.endswith(protocol.PREAMBLE)
        await self._process.stdout.readline()
        parser = FrameParser()
        while chunk := await self._process.stdout.read(65536):
            for frame in parser.feed(chunk):
                self._take(frame)

    def _take(self, frame: Frame) -> None:
        if frame.type == protocol.FRAME_HELLO:
            self.hello = decode(Hello, frame.payload)
            if self.hello.epoch != self.epoch:
                self._begin(self.hello.epoch)
        elif frame.type == protocol.FRAME_EPOCH:
            self._begin(frame.offset)
        elif frame.type == protocol.FRAME_BEAT:
            self.beats.append(decode(Beat, frame.payload))
        elif frame.type == protocol.FRAME_REPLY:
            self._replies[frame.offset].set_result(json.loads(frame.payload))
        elif frame.type == protocol.FRAME_DATA:
            name = next(name for name, number in protocol.STREAMS.items() if number == frame.stream)
            assert frame.offset == self.have[name], "nothing lost, nothing repeated"
            self.first.setdefault((self.epoch, name), frame.offset)
            self.streams[self.epoch, name] = self.streams.get((self.epoch, name), b"") + frame.payload
            self.have[name] += len(frame.payload)
            self.send(Frame(protocol.FRAME_ACK, frame.stream, self.have[name]))

    def _begin(self, epoch: int) -> None:
        self.epoch = epoch
        self.epochs.append(epoch)
        self.have = dict.fromkeys(self.have, 0)


class Box:
    """One launch on a box of its own."""

    def __init__(
        self, folder: Path, store: Store, *, launch: int = 1, run: str = "char", env: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.store, self.run, self.launch = folder, store, run, launch
        self.home = folder / "vl"
        self.env = {**os.environ, "VL_HOME": str(self.home), **(env or {})}
        self.pids: list[int] = []

    @property
    def launch_folder(self) -> Path:
        return self.home / "runs" / self.run / str(self.launch)

    @property
    def work(self) -> Path:
        return self.launch_folder / "work"

    async def submit(self, command: list[str] | None = None, **fields: Any) -> RunSpec:
        """Put the run into the store, as the operator's side does."""
        policy = fields.pop("checkpoints", CheckpointPolicy("ckpt"))
        words = " ".join(shlex.quote(word) for word in command or train())
        spec = RunSpec(self.run, "test", fields.pop("shell", words), policy, **fields)
        await heads.submit(self.store, spec)
        return spec

    def supervise(self, **fields: Any) -> dict[str, Any]:
        """What `vl-agent supervise` prints."""
        done = self.try_to_supervise(**fields)
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        self.pids.append(said["pid"])
        return said

    def try_to_supervise(self, **fields: Any) -> subprocess.CompletedProcess[bytes]:
        url = fields.pop("url", self.store.url)
        config = AgentConfig(self.run, "test", self.launch, url, beat_s=fields.pop("beat_s", 0.5), **fields)
        words = ["supervise", "--run", self.run, "--launch", str(self.launch)]
        return subprocess.run([*AGENT, *words], env=self.env, input=encode(config), capture_output=True, timeout=30)

    def attach(self, **fields: Any) -> Attached:
        return Attached(self, **fields)

    async def start(self, at: Attached, expect_epoch: int = 0) -> Head:
        """Give the box its epoch once it is prepared, as the controller does."""
        await at.phase("prepared")
        head = await heads.start(self.store, self.run, launch=self.launch, generation=1, expect_epoch=expect_epoch)
        reply = await at.command("start", epoch=head.epoch, token=head.holder)
        assert reply["ok"], reply
        return head

    def family(self) -> list[int]:
        with contextlib.suppress(FileNotFoundError, ValueError):
            record = json.loads((self.launch_folder / "training.json").read_bytes())
            return processes.members(processes.Family(**record))
        return []

    def close(self) -> None:
        """End what was started."""
        for pid in [*self.pids, *self.family()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
