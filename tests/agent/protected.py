"""One training under ``vl-agent run``, as a process of its own, and what the store holds of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vl_agent import head as heads
from vl_agent import training
from vl_agent.checkpoints import download
from vl_agent.protocol import Event, Head, agent_writer, journal_prefix, parse_event
from vl_agent.store import NotFound, Store, open_store

T = TypeVar("T")

SCRIPT = Path(__file__).with_name("train.py")
WITHIN_S = 30.0


def train(*options: object) -> list[str]:
    """The command line of the training without torch."""
    return [sys.executable, str(SCRIPT), *(str(option) for option in options)]


async def until(look: Callable[[], Any], what: str = "", within_s: float = WITHIN_S) -> Any:
    """What ``look`` (which may be async) returns, once it is true."""
    end = time.monotonic() + within_s
    while True:
        found = look()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, f"not within {within_s} s: {what or look}"
        await asyncio.sleep(0.02)


async def head_of(store: Store, run: str) -> Head:
    return (await heads.read(store, run))[0]


async def durable_step(store: Store, run: str) -> int:
    with contextlib.suppress(NotFound):
        checkpoint = (await head_of(store, run)).checkpoint
        return checkpoint.step if checkpoint else 0
    return 0


async def weights_of(store: Store, run: str, folder: Path) -> tuple[int, str]:
    """Step and weights of the newest durable checkpoint, fetched and hash-checked by hand."""
    from tests.agent.train import weights_in

    checkpoint = (await head_of(store, run)).checkpoint
    assert checkpoint is not None
    (ref,) = (await heads.manifest(store, checkpoint.manifest)).files
    path = folder / "fetched-by-the-test"
    await download.fetch(store, [(ref, path)])
    return weights_in(path)


async def stored_events(store: Store, run: str, epoch: int) -> list[Event]:
    """The agent's journal of an epoch, as the store has it."""
    keys = [entry.key for entry in await store.list(f"{journal_prefix(run)}{agent_writer(epoch)}/")]
    return [parse_event(line) for key in keys for line in (await store.get(key)).data.splitlines()]


def kinds(events: list[Event], *wanted: str) -> list[str]:
    return [event.kind for event in events if not wanted or event.kind in wanted]


def one(events: list[Event], kind: str) -> Mapping[str, Any]:
    """The fields of the only event of a kind."""
    (event,) = [event for event in events if event.kind == kind]
    return event.fields


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not collected is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


class Protected:
    """``vl-agent run`` of one run. Each ``start`` may be in a folder of its own; ``home`` is its machine."""

    def __init__(self, folder: Path, url: str, run: str = "char", env: Mapping[str, str] | None = None) -> None:
        self.folder, self.url, self.run = folder, url, run
        self.home = folder / "vl"
        self.env = {**os.environ, "VL_HOME": str(self.home), **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    @property
    def launch(self) -> Path:
        return self.home / "runs" / self.run / "0"

    def start(
        self, command: list[str], *, cwd: Path | None = None, options: tuple[str, ...] = (), told: int | None = None
    ) -> Path:
        """Start it in ``cwd``, or in a new folder; returns that folder. Its words go to ``told``, or into a file of
        that name there."""
        self._starts += 1
        where = cwd or self.folder / f"work-{self._starts}"
        where.mkdir(exist_ok=True)
        words = ["run", "--store", self.url, "--run", self.run, "--checkpoints", "ckpt", *options, "--", *command]
        with (where / "told").open("ab") as file:
            out = file if told is None else told
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vl_agent", *words], cwd=where, env=self.env, stdout=out, stderr=file,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        return where

    async def exit(self, within_s: float = WITHIN_S) -> int:
        """Its exit status, once it has ended."""
        process = self.process
        assert process is not None
        await until(lambda: process.poll() is not None, "vl-agent run ends", within_s)
        return int(process.returncode)

    def kill(self) -> None:
        """kill -9 of it and of its training, as a machine that loses power."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def family(self) -> list[int]:
        """Pids of the training's living processes."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            record = json.loads((self.launch / "training.json").read_bytes())
            return training.processes.members(training.Family(**record))
        return []

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def store_at(url: str, options: Mapping[str, str] | None = None) -> Store:
    return open_store(url, options or {}, timeout_s=10.0)
