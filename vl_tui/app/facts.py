"""What the screens show: read from the store by a thread with a loop of its own, handed over as one frozen value.

The screen's loop may stand still for seconds (a terminal that does not read blocks it), and nothing here notices: the
newest facts replace the ones not yet drawn, and the screen is told once, however many changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vl_agent.protocol import ENDED_STATES, VIEW_KEY, Head, Intent, IntentDone, ProtocolError, RunSpec

from vl_tui.app.log import LogStore
from vl_tui.config import ConfigError, FleetConfig
from vl_tui.domain.box import Offer, SshAddress
from vl_tui.domain.timeline import Fold, Timeline

if TYPE_CHECKING:
    from vl_agent.store import Store

LOOK_S = 1.0
FAILED_S = 3.0
CONTROLLER_S = 5.0
RUNS_AT_ONCE = 8


@dataclass(frozen=True)
class RunFacts:
    """One run, as the store and the controller's view tell it."""

    name: str
    spec: RunSpec | None
    head: Head
    timeline: Timeline = field(default_factory=Timeline)
    view: Mapping[str, Any] = field(default_factory=dict)
    """The controller's words about it (``fleet/view.json``), believed for what they are: a file."""

    @property
    def live(self) -> bool:
        return self.head.state not in ENDED_STATES

    @property
    def boxes(self) -> Sequence[Mapping[str, Any]]:
        found = self.view.get("boxes")
        return [box for box in found if isinstance(box, dict)] if isinstance(found, list) else []

    def number(self, name: str) -> float | None:
        """A number of the view."""
        value = self.view.get(name)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def text(self, name: str) -> str:
        value = self.view.get(name)
        return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class Facts:
    """Everything, at one moment. Ages are by this process's own clock."""

    runs: tuple[RunFacts, ...] = ()
    offers: tuple[Offer, ...] = ()
    offers_at: float = 0.0
    """Unix seconds when the controller published them."""
    controller: str = "none"
    """``on this host``, ``none``, or its owner elsewhere."""
    store_error: str = ""
    failing_since: float | None = None
    """Unix seconds since when the store does not answer."""
    first: bool = True
    """Nothing was read yet."""
    now: float = 0.0
    """Unix seconds at which this was put together."""

    def run(self, name: str) -> RunFacts | None:
        return next((run for run in self.runs if run.name == name), None)


class Reader:
    """Reads in the background from ``start`` to ``stop``. ``changed`` is called in its thread: it must only pass on."""

    def __init__(self, fleet: FleetConfig, changed: Callable[[], None]) -> None:
        self._fleet, self._changed = fleet, changed
        self.facts = Facts()
        self.log = LogStore()
        self.answers: dict[str, str] = {}
        """Intent id -> what became of it, in words."""
        self._folds: dict[str, Fold] = {}
        self._journals: dict[str, Any] = {}
        self._specs: dict[str, RunSpec] = {}
        self._view: Mapping[str, Any] = {}
        self._waiting: dict[str, Intent] = {}
        self._following: tuple[str, asyncio.Task[None]] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="facts", daemon=True)
        self._stopping = asyncio.Event()
        self._kick = asyncio.Event()
        self._store: Store | None = None

    # ------------------------------------------------------------------------------------- called by the screen's loop

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end and wait a moment; it is a daemon, so a request that hangs can't hold the terminal."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(3.0)

    def follow(self, run: str | None) -> None:
        """Whose log to stream; None: nobody's."""
        self._loop.call_soon_threadsafe(self._follow, run)

    def act(self, intent: Intent) -> None:
        """Leave a person's wish in the store and wake the controller."""
        self.answers[intent.id] = f"{intent.action}: told"
        asyncio.run_coroutine_threadsafe(self._act(intent), self._loop)

    # ------------------------------------------------------------------------------------------------- its own thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._live())

    async def _live(self) -> None:
        tasks = [asyncio.create_task(self._keep_reading()), asyncio.create_task(self._keep_controller())]
        await self._stopping.wait()
        self._follow(None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_reading(self) -> None:
        from vl_agent.store import StoreError

        while True:
            pause = LOOK_S
            try:
                if self._store is None:
                    from vl_tui.store.opening import open_fleet_store

                    self._store = await asyncio.to_thread(open_fleet_store, self._fleet, timeout_s=10.0)
                await self._read(self._store)
            except (StoreError, ProtocolError, ConfigError) as error:
                since = self.facts.failing_since or time.time()
                self._publish(replace(self.facts, store_error=str(error), failing_since=since, now=time.time()))
                pause = FAILED_S
            self._kick.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._kick.wait(), pause)

    async def _read(self, store: Store) -> None:
        from vl_tui.store import runs

        names = await runs.names(store)
        await self._read_view(store)
        at_once = asyncio.Semaphore(RUNS_AT_ONCE)
        found = await asyncio.gather(*(self._read_run(store, name, at_once) for name in names))
        await self._read_answers(store)
        pid_words = self.facts.controller
        self._publish(
            Facts(
                runs=tuple(run for run in found if run is not None), offers=_offers(self._view),
                offers_at=_number(self._view.get("published_at")), controller=pid_words, first=False, now=time.time(),
            )
        )  # fmt: skip

    async def _read_run(self, store: Store, name: str, at_once: asyncio.Semaphore) -> RunFacts | None:
        from vl_agent.store import NotFound

        from vl_tui.store import journals, runs

        async with at_once:
            try:
                head = await runs.head(store, name)
                if name not in self._specs:
                    self._specs[name] = await runs.spec(store, name)
            except NotFound:  # being submitted, or a folder that is no run
                return None
            reader = self._journals.setdefault(name, journals.JournalReader(store, name))
            fold = self._folds.setdefault(name, Fold())
            lines = await reader.more()
            fold.add(line.event for line in sorted(lines, key=lambda line: line.order))
        views = self._view.get("runs")
        view = views.get(name) if isinstance(views, dict) else None
        return RunFacts(name, self._specs[name], head, fold.timeline(), view if isinstance(view, dict) else {})

    async def _read_view(self, store: Store) -> None:
        from vl_agent.store import NotFound

        try:
            found = json.loads((await store.get(VIEW_KEY)).data)
        except (NotFound, ValueError, RecursionError):
            return
        if isinstance(found, dict):
            self._view = found

    async def _read_answers(self, store: Store) -> None:
        from vl_tui.store import intents

        for intent in list(self._waiting.values()):
            done: IntentDone | None = await intents.answered(store, intent.id)
            if done is not None:
                del self._waiting[intent.id]
                self.answers[intent.id] = f"{intent.action}: {done.result} · {done.detail}"

    def _publish(self, facts: Facts) -> None:
        self.facts = facts
        self._changed()

    # ------------------------------------------------------------------------------------------------- the controller

    async def _keep_controller(self) -> None:
        """Where runs are live and no controller keeps them, start one."""
        from vl_tui.controller import process

        while True:
            pid = await asyncio.to_thread(process.pid, self._fleet)
            words = "on this host" if pid is not None else "none"
            if pid is None and any(run.live for run in self.facts.runs):
                words = await self._start_controller()
            if words != self.facts.controller:
                self._publish(replace(self.facts, controller=words))
            await asyncio.sleep(CONTROLLER_S)

    async def _start_controller(self) -> str:
        from vl_tui.controller import process

        try:
            await asyncio.to_thread(process.ensure_controller, self._fleet.path)
            return "on this host"
        except (process.ControllerFailed, ConfigError) as error:
            return f"can't start: {error}"

    async def _act(self, intent: Intent) -> None:
        from vl_agent.store import StoreError

        from vl_tui.controller import process
        from vl_tui.store import intents

        try:
            if self._store is None:
                self.answers[intent.id] = f"{intent.action}: not done, the store can't be reached"
                return
            fresh = await intents.write(self._store, intent)
            self._waiting[intent.id] = intent
            self.answers[intent.id] = f"{intent.action}: {'told' if fresh else 'was asked for already'}"
            await self._start_controller()
            await asyncio.to_thread(process.wake, self._fleet.fleet)
        except StoreError as error:
            self.answers[intent.id] = f"{intent.action}: not done: {error}"
        self._kick.set()
        self._changed()

    # ----------------------------------------------------------------------------------------------------- the log

    def _follow(self, run: str | None) -> None:
        if self._following is not None:
            name, task = self._following
            if name == run:
                return
            task.cancel()
            self._following = None
        self.log.clear()
        if run is not None:
            self._following = (run, self._loop.create_task(self._stream(run)))

    async def _stream(self, name: str) -> None:
        """The run's log: first what the store has of attempts that are over, then live from each box in turn."""
        from vl_agent.store import StoreError

        shown: set[int] = set()
        while True:
            run = self.facts.run(name)
            if run is not None and self._store is not None:
                with contextlib.suppress(StoreError):
                    await self._show_former(run, shown)
                box = _reachable(run)
                if box is not None:
                    await self._stream_box(run, box)
                    shown.add(run.head.epoch)
            await asyncio.sleep(1.0)

    async def _show_former(self, run: RunFacts, shown: set[int]) -> None:
        from vl_tui.store import logs

        assert self._store is not None
        live = run.head.epoch if run.live and _reachable(run) is not None else -1
        for epoch in await logs.epochs(self._store, run.name):
            if epoch in shown or epoch >= live >= 0:
                continue
            shown.add(epoch)
            for offset, key in await logs.ranges(self._store, run.name, epoch):
                self.log.add(epoch, offset, await logs.read(self._store, key))
        self._changed()

    async def _stream_box(self, run: RunFacts, box: Mapping[str, Any]) -> None:
        """Until the box is no longer the run's, or not to be talked to."""
        from vl_tui.ssh.hostkeys import Pins
        from vl_tui.ssh.link import BoxLink

        link = BoxLink(
            _address(box), box_id=str(box.get("box_id")), run=run.name, launch=int(box["launch"]),
            pins=Pins(self._fleet.state_dir / "pins"), cache=self._fleet.cache_dir, sink=_Sink(self),
            host_keys=[str(key) for key in box.get("host_keys") or ()], streams=("log",),
            epoch=run.head.epoch, have={"log": self.log.size(run.head.epoch)},
        )  # fmt: skip
        running = asyncio.create_task(link.run())
        try:
            while not running.done():
                await asyncio.wait({running}, timeout=1.0)
                now = self.facts.run(run.name)
                if now is None or not now.live or (_reachable(now) or {}).get("launch") != box.get("launch"):
                    return
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


class _Sink:
    """Passes a box's log on."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def beat(self, beat: Any) -> None:
        return

    def data(self, epoch: int, stream: str, offset: int, chunk: bytes) -> None:
        self._reader.log.add(epoch, offset, chunk)
        self._reader._changed()

    def link(self, name: str, words: str) -> None:
        self._reader.log.link = f"{name}: {words}" if words else name
        self._reader._changed()


def _reachable(run: RunFacts) -> Mapping[str, Any] | None:
    """The box that holds the run's epoch, if the controller told where it is."""
    for box in run.boxes:
        if box.get("launch") == run.head.launch and run.live and isinstance(box.get("ssh"), dict):
            return box if not box.get("given_up") else None
    return None


def _address(box: Mapping[str, Any]) -> SshAddress:
    ssh = box["ssh"]
    keys = ssh.get("key_paths")
    return SshAddress(
        host=str(ssh.get("host", "")), port=int(ssh.get("port") or 22), user=str(ssh.get("user", "")),
        key_paths=tuple(str(key) for key in keys) if isinstance(keys, list) else (), alias=str(ssh.get("alias", "")),
    )  # fmt: skip


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0


def _offers(view: Mapping[str, Any]) -> tuple[Offer, ...]:
    """The offers of a view; one that is none is left out."""
    from vl_agent.protocol import decode

    found = []
    for body in view.get("offers") or ():
        with contextlib.suppress(ProtocolError, TypeError, AttributeError):
            found.append(decode(Offer, body))
    return tuple(found)
