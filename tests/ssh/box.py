"""A box behind a real sshd, the operator's link to it, and a listener that refuses a byte lost or repeated."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vl_agent import head as heads
from vl_agent.protocol import AgentConfig, Beat, CheckpointPolicy, RunSpec
from vl_agent.store import Store

from tests.fixtures.sshd import Relay, Sshd
from vl_tui.ssh.hostkeys import Pins
from vl_tui.ssh.link import BoxLink

TALKS = """
import json, os, time
progress = open(os.environ["VL_CONTROL"] + "/progress.jsonl", "a", buffering=1)
number = step = 0
while not os.path.exists("enough"):
    for _ in range(200):
        number += 1
        print(f"line {number:08d} \\x1b[31m\\u00e9\\u2028 " + "." * (number % 90))
    step += 1
    progress.write(json.dumps({"step": step, "loss": 1 / step, "total": None, "t": time.time()}) + "\\n")
    time.sleep(0.01)
"""
"""A training that prints about 1 MB/s and tells steps, until a file `enough` is there."""


async def until(look: Callable[[], Any], what: str, within_s: float = 30.0) -> Any:
    """What ``look`` returns, once it is true."""
    end = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.02)
    return found


class Listener:
    """Takes in what a link hands on. Every chunk must begin where the one before ended."""

    def __init__(self) -> None:
        self.beats: list[Beat] = []
        self.states: list[tuple[str, str]] = []
        self.streams: dict[tuple[int, str], bytearray] = {}
        self.wrong: list[str] = []

    def beat(self, beat: Beat) -> None:
        self.beats.append(beat)

    def data(self, epoch: int, stream: str, offset: int, chunk: bytes) -> None:
        held = self.streams.setdefault((epoch, stream), bytearray())
        if offset != len(held):
            self.wrong.append(f"{stream} of epoch {epoch}: {offset} after {len(held)}")
        held += chunk

    def link(self, name: str, words: str) -> None:
        self.states.append((name, words))

    @property
    def name(self) -> str:
        return self.states[-1][0] if self.states else ""

    def attached(self) -> int:
        """How often the channel came up."""
        return sum(name == "attached" for name, _ in self.states)

    def drops(self) -> int:
        """How often it went down; it may be up again before anybody looks."""
        return sum(name == "down" for name, _ in self.states)

    def phase(self) -> str:
        return self.beats[-1].phase if self.beats else ""


class Box:
    """One launch of the run ``char`` on it."""

    run, launch = "char", 1

    def __init__(self, sshd: Sshd, relay: Relay, store: Store, cache: Path, folder: Path) -> None:
        self.sshd, self.relay, self.store, self.cache, self.folder = sshd, relay, store, cache, folder
        self.pins = Pins(folder / "pins")
        self.tasks: list[asyncio.Task[None]] = []

    @property
    def root(self) -> Path:
        return self.sshd.home / ".vl"

    @property
    def launch_folder(self) -> Path:
        return self.root / "runs" / self.run / str(self.launch)

    async def submit(self, program: str = TALKS) -> None:
        command = shlex.join([sys.executable, "-c", program])
        spec = RunSpec(self.run, "test", command, CheckpointPolicy("ckpt"), env={"PYTHONIOENCODING": "utf-8"})
        await heads.submit(self.store, spec)

    async def config(self) -> AgentConfig:
        return AgentConfig(self.run, "test", self.launch, self.store.url, beat_s=5.0, notices=("signal",))

    def link(
        self,
        listener: Listener,
        *,
        supervise: bool = True,
        streams: Sequence[str] = ("journal", "log"),
        epoch: int = 0,
        have: Mapping[str, int] | None = None,
    ) -> BoxLink:
        return BoxLink(
            self.sshd.address(self.relay.port), box_id="box-1", run=self.run, launch=self.launch, pins=self.pins,
            cache=self.cache, sink=listener, config=self.config if supervise else None, streams=streams,
            epoch=epoch, have=have,
        )  # fmt: skip

    def begin(self, link: BoxLink) -> asyncio.Task[None]:
        task = asyncio.create_task(link.run())
        self.tasks.append(task)
        return task

    async def start(self, link: BoxLink, listener: Listener) -> None:
        """Give it its epoch once it is prepared, as the controller does."""
        await until(lambda: listener.phase() == "prepared" and listener.name == "attached", "prepared")
        head = await heads.start(self.store, self.run, launch=self.launch, generation=1, expect_epoch=0)
        reply = await link.command(command="start", epoch=head.epoch, token=head.holder)
        assert reply["ok"], reply

    def enough(self) -> None:
        (self.launch_folder / "work" / "enough").touch()

    def written(self, stream: str) -> bytes:
        """What the box has in its own file."""
        path = self.launch_folder / "epoch-1" / ("journal.jsonl" if stream == "journal" else "log")
        return path.read_bytes() if path.exists() else b""

    def processes(self, word: str = "") -> list[int]:
        """Those of the agent and its trainings on this box, ``word`` among their arguments."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if not entry.name.isdigit() or str(self.sshd.home).encode() not in (entry / "environ").read_bytes():
                    continue
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if not os.path.basename(words[0]).startswith(b"sshd") and (not word or word.encode() in words):
                    found.append(int(entry.name))
        return found

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.store.close()
