"""What the demo consists of while it runs: a folder, a real S3 server, the embedded fleet, a controller, a run.

Everything is on a leash: it ends with this process, also when that is killed -9.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from vl_agent import protocol
from vl_agent.checkpoints import download
from vl_agent.protocol import ENDED_STATES, Event
from vl_agent.store import Store, StoreError

from vl_tui.commands import submit as submitting
from vl_tui.config import FleetConfig, load_fleet, load_run
from vl_tui.controller import process
from vl_tui.demo.faults import Seen
from vl_tui.demo.fleet.client import FleetProcess, Lab
from vl_tui.demo.report import BoxHistory
from vl_tui.demo.s3 import S3Server
from vl_tui.failure import Refused
from vl_tui.store import journals, runs
from vl_tui.store.opening import open_fleet_store

RUN = "demo"
FORMER_S = 25.0
"""What a killed demo left behind ends by itself within ten seconds; so long is waited for it."""
CLEAN_UP_S = 30.0


class World:
    """``async with World(folder) as world``: S3, fleet and store are up. ``folder`` holds everything there is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.fleet_id = "demo-" + hashlib.sha256(str(self.folder).encode()).hexdigest()[:10]
        self._stack = contextlib.AsyncExitStack()
        self._leash = -1
        self._held = -1
        self._seen: list[journals.Line] = []
        self._looking = asyncio.Lock()

    async def __aenter__(self) -> World:
        try:
            self._lock()
            self._held, self._leash = os.pipe()
            self.s3 = await self._stack.enter_async_context(S3Server(self.folder / "s3"))
            host, port = self.s3.address
            os.environ["AWS_ACCESS_KEY_ID"] = self.s3.access_key
            os.environ["AWS_SECRET_ACCESS_KEY"] = self.s3.secret_key
            for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
                os.environ.pop(name, None)
            self.config = self._write_fleet()
            env = {"VL_NOTICE_POLL_S": "0.5", "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"}
            settings = {"store": f"{host}:{port}", "env": env}
            self.boxes = await self._stack.enter_async_context(
                FleetProcess(self.folder / "fleet", self.folder / "fleet.sock", settings)
            )
            self.lab: Lab = self.boxes.lab
            self.store: Store = await asyncio.to_thread(open_fleet_store, self.config)
            self._journal = journals.JournalReader(self.store, RUN)
        except BaseException:
            await self._stack.aclose()
            self._cut_leash()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The controller goes first: with the boxes gone before it, it would launch others."""
        await asyncio.to_thread(self._end_controller)
        self._cut_leash()
        await self._stack.aclose()
        for kind_of_file in ("lock", "sock", "log", "log.1"):
            path = self.config.runtime_dir / f"{self.fleet_id}.{kind_of_file}"
            path.unlink(missing_ok=True)

    # --------------------------------------------------------------------------------------------------- the run

    async def submit(self, workdir: Path, command: str, checkpoints: str) -> None:
        """Submit the demo's run; again on the same folder it is the same run."""
        path = self.folder / "run.yaml"
        path.write_text(
            f"name: {RUN}\nrun: {_yaml(command)}\nworkdir: {_yaml(str(workdir))}\n"
            f"checkpoints: {{path: {_yaml(checkpoints)}, every: 5s, keep: 3}}\n"
            "resources: {market: spot}\n"
        )
        config = load_run(path)
        await submitting.submit(self.config, config, self.store, secrets={}, say=lambda words: None)
        await self.ensure_controller()

    async def ensure_controller(self) -> None:
        """Start a controller where none lives, on our leash."""
        await asyncio.to_thread(process.ensure_controller, self.config.path, self._held)
        process.wake(self.fleet_id)

    async def controller_pid(self) -> int | None:
        return await asyncio.to_thread(process.pid, self.config)

    async def look(self) -> Seen:
        """The run as the store has it now. A store that does not answer is asked again."""
        while True:
            try:
                async with self._looking:
                    head = await runs.head(self.store, RUN)
                    self._seen += await self._journal.more()
                return Seen(head, self.events)
            except StoreError:
                await asyncio.sleep(0.5)

    @property
    def events(self) -> list[Event]:
        """Everything seen of the journals, by epoch, writer and place."""
        return [line.event for line in sorted(self._seen, key=lambda line: line.order)]

    @property
    def arrived(self) -> list[Event]:
        """The same in the order in which they were seen: it only grows at its end."""
        return [line.event for line in self._seen]

    async def box_name(self, launch: int) -> str:
        return protocol.box_name(self.fleet_id, RUN, launch)

    async def lives(self, box: str) -> bool:
        """Whether the fleet runs a box of that name now."""
        return any(b["name"] == box and not b.get("ended") for b in await self.lab.boxes())

    async def ended(self) -> Seen:
        """Wait until the run has ended; a controller that died meanwhile without our doing is started again."""
        while True:
            seen = await self.look()
            if seen.head.state in ENDED_STATES:
                return seen
            await asyncio.sleep(0.5)

    async def cleaned_up(self) -> int:
        """Wait until the controller has ended every box that the run needs no more; returns how many boxes and
        processes are left."""
        end = time.monotonic() + CLEAN_UP_S
        while True:
            needed = await self._needed()
            left = await self.lab.orphans()
            count = len([box for box in left["boxes"] if box not in needed]) + len(left["processes"])
            if not count or time.monotonic() > end:
                return count
            await asyncio.sleep(0.3)

    async def _needed(self) -> set[str]:
        """Boxes of a run that goes on; of one that has ended, none."""
        if (await self.look()).ended:
            return set()
        return {launched.record.name for launched in await runs.launches(self.store, RUN) if launched.end is None}

    async def history(self) -> list[BoxHistory]:
        return [BoxHistory(str(b["id"]), str(b["name"]), not b.get("ended")) for b in await self.lab.boxes()]

    async def last_checkpoint(self, target: Path) -> bool:
        """Fetch the run's newest durable checkpoint, a single file. False: there is none."""
        head = await runs.head(self.store, RUN)
        if head.checkpoint is None:
            return False
        manifest = protocol.decode(protocol.Manifest, (await self.store.get(head.checkpoint.manifest)).data)
        for ref in manifest.files:
            await download.fetch(self.store, [(ref, target)])
        return bool(manifest.files)

    # --------------------------------------------------------------------------------------------------- processes

    async def leashed(self, command: Sequence[str], folder: Path, log: Path) -> asyncio.subprocess.Process:
        """A process of our own on a leash of its own."""
        with log.open("ab") as out:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "vl_tui.demo.leash", "--", *command, cwd=folder,
                stdin=asyncio.subprocess.PIPE, stdout=out, stderr=out, start_new_session=True,
                env={k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "VL_"))} | {
                    "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
                },
            )  # fmt: skip

    def _lock(self) -> None:
        """One demo a folder. What a killed one left may still be ending: it is waited for."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.folder / "demo.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise Refused(f"{self.folder}: another demo runs there: end it, or name another --state.") from None
        self._stack.callback(os.close, fd)

    def _end_controller(self) -> None:
        pid = process.pid(self.config)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 10.0
        while process.pid(self.config) is not None and time.monotonic() < end:
            time.sleep(0.05)

    async def wait_for_former(self) -> None:
        """A controller of a demo that was killed may still be ending: until it has, ours could not start."""
        end = time.monotonic() + FORMER_S
        while await self.controller_pid() is not None:
            if time.monotonic() > end:
                raise Refused(f"{self.folder}: the controller of the demo before does not end.")
            await asyncio.sleep(0.1)

    def _cut_leash(self) -> None:
        for fd in (self._leash, self._held):
            if fd >= 0:
                os.close(fd)
        self._leash = self._held = -1

    def _write_fleet(self) -> FleetConfig:
        path = self.folder / "fleet.yaml"
        path.write_text(
            f"fleet: {self.fleet_id}\nstore: s3://{self.s3.bucket}/fleet\nendpoint: {self.s3.endpoint}\n"
            f"box_credentials: {{role: {self.s3.role}}}\n"
            f"region: us-east-1\nstate: {_yaml(str(self.folder / 'state'))}\n"
            f"providers: [{{kind: local, socket: {_yaml(str(self.folder / 'fleet.sock'))}}}]\n"
            "defaults: {grace: 6s, poll: 1s, beat: 1s}\n"
        )
        keys = self.folder / "env"
        keys.touch(mode=0o600)
        keys.write_text(
            f"export AWS_ACCESS_KEY_ID={self.s3.access_key}\nexport AWS_SECRET_ACCESS_KEY={self.s3.secret_key}\n"
        )
        return load_fleet(path)


def _yaml(text: str) -> str:
    """A YAML double-quoted scalar."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
