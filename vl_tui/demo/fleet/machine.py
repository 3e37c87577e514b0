"""One box as the fleet holds it: its first process, its relays, its metadata, its disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from vl_tui.demo.fleet import descendants
from vl_tui.demo.fleet.books import Entry
from vl_tui.demo.fleet.metadata import Metadata
from vl_tui.demo.fleet.relay import Relay
from vl_tui.demo.fleet.settings import Settings

START_S = 30.0
"""A box that has not told its port by then has failed."""
END_S = 7.0
"""A little more than a box takes to end what runs on it; then the fleet does it from outside."""


class BootFailed(Exception):
    """The box did not come up."""


class Machine:
    """Runs from ``boot`` to ``end``. ``gone`` is set when its first process has ended, whoever ended it."""

    def __init__(self, entry: Entry, folder: Path, settings: Settings) -> None:
        self._entry, self._settings = entry, settings
        self.disk = folder / entry.id
        self._log = folder / f"{entry.id}.log"
        self.metadata = Metadata(entry.id, entry.place, entry.market)
        self._store = Relay(settings.store) if settings.store else None
        self._ssh: Relay | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.silent = False
        self.gone = asyncio.Event()
        self._starting = asyncio.Lock()
        self._over = False
        self._waiting: asyncio.Task[None] | None = None

    async def boot(self, public_key: str, boot_s: float) -> None:
        """Bring it up; not before ``boot_s`` seconds. Fills in the entry's address. Raises ``BootFailed``."""
        ready_at = time.monotonic() + boot_s
        await self.metadata.open()
        if self._store is not None:
            await self._store.open()
        try:
            async with asyncio.timeout(START_S):
                told = await self._start(public_key)
        except (TimeoutError, OSError, ValueError) as error:
            raise BootFailed(f"the box did not come up ({type(error).__name__}): its log is {self._log}") from None
        await asyncio.sleep(ready_at - time.monotonic())
        self._ssh = Relay(("127.0.0.1", int(told["port"])))
        await self._ssh.open()
        if self.silent:
            self._ssh.silence()
        self._entry.ssh_port, self._entry.host_key = self._ssh.port, told["host_key"]

    async def _start(self, public_key: str) -> dict[str, str]:
        env = self._environment()
        async with self._starting:
            if self._over:
                raise BootFailed("the box was ended before it was up")
            self._process = process = await self._spawn(env)
            self._waiting = asyncio.create_task(self._wait(process))
        assert process.stdin
        assert process.stdout
        order = {"home": str(self.disk), "public_key": public_key, "env": env}
        process.stdin.write(json.dumps(order).encode() + b"\n")
        await process.stdin.drain()
        told: dict[str, str] = json.loads(await process.stdout.readline())
        return told

    async def _spawn(self, env: Mapping[str, str]) -> asyncio.subprocess.Process:
        self.disk.mkdir(parents=True)
        code = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}  # for it, not for what runs on it
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "vl_tui.demo.fleet.box",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                cwd=self.disk, env={**env, **code}, start_new_session=True,
            )  # fmt: skip

    async def _wait(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        self.gone.set()

    def _environment(self) -> Mapping[str, str]:
        """All that a box knows of the world. Nothing of the operator's own environment is in it, but where programs
        are found."""
        beside = str(Path(sys.executable).parent)
        env = {
            "HOME": str(self.disk),
            "TMPDIR": str(self.disk / "tmp"),
            "PATH": os.pathsep.join([str(self.disk / "bin"), beside, os.environ.get("PATH", os.defpath)]),
            "USER": "box", "LOGNAME": "box", "SHELL": "/bin/sh", "LANG": "C.UTF-8",
            descendants.MARK: self._entry.id,
            "VL_POWEROFF": str(self.disk / "bin" / "poweroff"),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{self.metadata.port}",
        }  # fmt: skip
        if self._store is not None:
            env["VL_STORE_ENDPOINT"] = f"http://127.0.0.1:{self._store.port}"
        return env | dict(self._settings.env)

    def silence(self) -> None:
        """Cut it off, without a word to either side."""
        self.silent = True
        for relay in self._relays():
            relay.silence()

    def resume(self) -> None:
        """Join it again; what was held comes through."""
        self.silent = False
        for relay in self._relays():
            relay.resume()

    async def cut(self) -> None:
        """Take its ways out away for good."""
        await asyncio.gather(*(relay.close() for relay in self._relays()), self.metadata.close())

    async def end(self) -> None:
        """End every process of the box and remove its disk; returns when that is done. The ways out go first."""
        async with self._starting:
            self._over = True
        await self.cut()
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()  # the leash
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.gone.wait(), END_S)
        await asyncio.to_thread(self.sweep)
        if process is not None:
            await self.gone.wait()

    def sweep(self) -> None:
        """End and remove what a box leaves that could not end itself. Blocks."""
        descendants.end(self._left, within_s=2.0)
        if self.disk.exists():
            shutil.rmtree(self.disk, ignore_errors=True)

    def _left(self) -> set[int]:
        process = self._process
        first = {process.pid} if process is not None and process.returncode is None else set()
        below = {pid for root in first for pid in descendants.of(root)}
        return first | below | descendants.marked(self._entry.id)

    def _relays(self) -> list[Relay]:
        return [relay for relay in (self._ssh, self._store) if relay is not None]
