"""One controller's life: open what it needs, take the lease, listen for wake-ups, keep the fleet."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable

from vl_agent.head import NewerController
from vl_agent.protocol import ENDED_STATES, LEASE_KEY, ProtocolError
from vl_agent.store import NotFound, Store

from vl_tui.config import FleetConfig
from vl_tui.controller import lease, private, process
from vl_tui.controller.boxes import Boxes
from vl_tui.controller.clock import SystemClock
from vl_tui.controller.controller import Controller
from vl_tui.controller.credentials import Credentials
from vl_tui.controller.ports import Ports
from vl_tui.providers import registry
from vl_tui.providers.base import Provider
from vl_tui.store import intents, runs
from vl_tui.store.opening import open_fleet_store, store_options

IDLE, TOLD, NEWER = "idle", "told", "newer"
"""How it ended: nothing left to keep; a signal or the leash; a newer controller keeps the fleet."""


async def serve(fleet: FleetConfig, leash_fd: int | None, ready: Callable[[], None]) -> str:
    """Keep the fleet; ``ready`` is called once wake-ups are heard. The caller holds the fleet's lock."""
    process.write_pid(fleet)
    store = await asyncio.to_thread(open_fleet_store, fleet)
    providers = {provider.name: provider for provider in registry.open_providers(fleet)}
    stop, woken = asyncio.Event(), asyncio.Event()
    try:
        options = await asyncio.to_thread(store_options, fleet)
        await _reach(store)
        async with _listening(fleet, woken), _told(stop, leash_fd):
            ready()
            ports = _ports(fleet, store, options, providers)
            keeping = asyncio.create_task(_keep(fleet, ports, woken))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait((keeping, stopping), return_when=asyncio.FIRST_COMPLETED)
            for task in (keeping, stopping):
                task.cancel()
            await asyncio.wait((keeping, stopping))
            return TOLD if keeping.cancelled() else keeping.result()
    finally:
        for provider in providers.values():
            await provider.close()
        await store.close()


async def _reach(store: Store) -> None:
    """Whoever starts a controller is told at once that the store can't be used. Raises ``StoreError``."""
    with contextlib.suppress(NotFound):
        await store.get(LEASE_KEY)


async def anything_left(fleet: FleetConfig) -> bool:
    """Whether a run goes on or an intent waits: left by somebody who saw our lock just before it went."""
    store = await asyncio.to_thread(open_fleet_store, fleet)
    try:
        if await intents.pending(store):
            return True
        for name in await runs.names(store):
            with contextlib.suppress(NotFound, ProtocolError):
                goes_on = (await runs.head(store, name)).state not in ENDED_STATES
                if goes_on and (await runs.spec(store, name)).fleet == fleet.fleet:
                    return True
        return False
    finally:
        await store.close()


def _ports(fleet: FleetConfig, store: Store, options: dict[str, str], providers: dict[str, Provider]) -> Ports:
    key, public = private.fleet_key(fleet.state_dir)
    secrets, say = private.Secrets(fleet.state_dir), Said()
    return Ports(
        fleet=fleet.fleet,
        store=store,
        providers=providers,
        connect=Boxes(fleet, Credentials(fleet, options, say), secrets).connect,
        clock=SystemClock(),
        public_key=public,
        key_path=str(key),
        missing_secrets=secrets.missing,
        say=say,
        poll_s=fleet.defaults.poll,
        beat_s=fleet.defaults.beat,
    )


async def _keep(fleet: FleetConfig, ports: Ports, woken: asyncio.Event) -> str:
    owner = f"{socket.gethostname()}:{os.getpid()}"
    held = await lease.acquire(
        ports.store, owner=owner, host=process.lock_name(fleet), clock=ports.clock, say=ports.say
    )
    ports.say(f"generation {held.generation} keeps {fleet.fleet} as {owner}")
    idle_s = float(os.environ.get("VL_CONTROLLER_IDLE_S", process.IDLE_S))
    controller = Controller(ports, held, idle_s=idle_s)
    waking = asyncio.create_task(_pass_on(woken, controller.wake))
    try:
        await controller.run()
        ports.say("nothing is left to keep")
        return IDLE
    except NewerController as error:
        ports.say(str(error))
        return NEWER
    finally:
        waking.cancel()


async def _pass_on(woken: asyncio.Event, wake: Callable[[], None]) -> None:
    while True:
        await woken.wait()
        woken.clear()
        wake()


@contextlib.asynccontextmanager
async def _listening(fleet: FleetConfig, woken: asyncio.Event) -> AsyncIterator[None]:
    """The Unix socket that carries wake-ups, and nothing else. The lock is ours, so a socket that is there is dead."""

    async def heard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                while await reader.readline():
                    woken.set()
                    writer.write(b"ok\n")
                    await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass  # a caller that hangs or talks too much is not listened to
        finally:
            writer.close()

    path = fleet.runtime_dir / f"{fleet.fleet}.sock"
    path.unlink(missing_ok=True)
    with process.short_path(path.name) as short:
        server = await asyncio.start_unix_server(heard, short, limit=1024)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _told(stop: asyncio.Event, leash_fd: int | None) -> AsyncIterator[None]:
    """Set ``stop`` on SIGTERM, SIGINT, or when nobody holds the leash's other end any more. Runs are not touched."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # the terminal is gone: all the more reason to stay

    def pulled() -> None:
        assert leash_fd is not None
        with contextlib.suppress(BlockingIOError):
            if not os.read(leash_fd, 4096):
                stop.set()

    if leash_fd is not None:
        os.set_blocking(leash_fd, False)
        loop.add_reader(leash_fd, pulled)
    try:
        yield
    finally:
        if leash_fd is not None:
            loop.remove_reader(leash_fd)


class Said:
    """The log: one line each on stderr, with the time; a line said again and again is said once."""

    def __init__(self) -> None:
        self._last, self._times = "", 0

    def __call__(self, line: str) -> None:
        line = "".join(char if char.isprintable() else " " for char in line)
        if line == self._last:
            self._times += 1
            return
        if self._times:
            print(f"  ({self._times} times more)", file=sys.stderr)
        self._last, self._times = line, 0
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        print(f"{stamp}Z {line}", file=sys.stderr, flush=True)
