"""Reads what the screens show, by a thread with a loop of its own, and hands it over as one frozen value.

The screen's loop may stand still for seconds (a terminal that does not read blocks it), and nothing here notices: the
newest facts replace the ones not yet drawn, and the screen is told once, however many changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vl_agent.protocol import VIEW_KEY, Intent, IntentDone, ProtocolError, RunSpec, decode

from vl_tui.app.facts import SILENT_S, Facts, RunFacts, number, text
from vl_tui.app.log import LogStore
from vl_tui.app.tail import Tail
from vl_tui.config import ConfigError, FleetConfig
from vl_tui.domain.box import Offer
from vl_tui.domain.timeline import Fold

if TYPE_CHECKING:
    from vl_agent.store import Store

LOOK_S = 1.0
ENDED_LOOK_S = 15.0
"""A run that has ended, and whose journal says so, changes no more: it is looked at seldom."""
FAILED_S = 3.0
CONTROLLER_S = 5.0
LEAVE_S = 2.0
"""What is still to be told to the store may take when the app is left."""
RUNS_AT_ONCE = 8
MOST_WISHES = 50
"""Wishes of one kind for one attempt."""


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
        self._ended: dict[str, float] = {}
        """Runs not to be looked at before that moment (monotonic)."""
        self._view: Mapping[str, Any] = {}
        self._view_at = 0.0
        self._waiting: dict[str, Intent] = {}
        self._acts: list[asyncio.Task[None]] = []
        self._leaving = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="facts", daemon=True)
        self._stopping = asyncio.Event()
        self._kick = asyncio.Event()
        self._store: Store | None = None
        self._tail = Tail(self, fleet)

    # ------------------------------------------------------------------------------------- called by the screen's loop

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end and wait a moment; it is a daemon, so a request that hangs can't hold the terminal."""
        if self._thread.is_alive():
            self._call(self._stopping.set)
            self._thread.join(LEAVE_S + 2.0)

    def follow(self, run: str | None) -> None:
        """Whose log to stream; None: nobody's."""
        self._call(self._tail.follow, run)

    def act(self, intent: Intent) -> None:
        """Leave a person's wish in the store and wake the controller. The wish gets the first number that is free, but
        is the same one again as long as the last of its kind is open."""
        self._call(lambda: self._acts.append(self._loop.create_task(self._act(intent))))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the app is leaving
            self._loop.call_soon_threadsafe(function, *arguments)

    # ------------------------------------------------------------------------------------------------- its own thread

    @property
    def store(self) -> Store | None:
        return self._store

    def changed(self) -> None:
        self._changed()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._live())
        finally:
            self._loop.close()

    async def _live(self) -> None:
        tasks = [asyncio.create_task(self._keep_reading()), asyncio.create_task(self._keep_controller())]
        await self._stopping.wait()
        if self._acts:  # a key pressed right before leaving is a wish all the same
            await asyncio.wait(self._acts, timeout=LEAVE_S)
        tasks += [*self._tail.ending(), *self._acts]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._store is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._store.close(), 1.0)

    def _publish(self, **news: Any) -> None:
        self.facts = replace(self.facts, **news)
        self._changed()

    # ------------------------------------------------------------------------------------------------------- reading

    async def _keep_reading(self) -> None:
        from vl_agent.store import StoreError

        while True:
            pause = FAILED_S
            try:
                if self._store is None:
                    from vl_tui.store.opening import open_fleet_store

                    self._store = await asyncio.to_thread(open_fleet_store, self._fleet, timeout_s=10.0)
                await self._read(self._store)
                pause = LOOK_S
            except (StoreError, ConfigError) as error:
                self._failed(str(error))
            except Exception as error:  # noqa: BLE001 - a reader that ends leaves a screen that lies
                self._failed(_unforeseen(error))
            self._kick.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._kick.wait(), pause)

    def _failed(self, words: str) -> None:
        self._publish(store_error=words, failing_since=self.facts.failing_since or time.time())

    async def _read(self, store: Store) -> None:
        from vl_tui.store import runs

        names = await runs.names(store)
        await self._read_view(store)
        at_once = asyncio.Semaphore(RUNS_AT_ONCE)
        unreadable: dict[str, str] = {}
        found = await asyncio.gather(*(self._read_run(store, name, at_once, unreadable) for name in names))
        await self._read_answers(store)
        self._publish(
            runs=tuple(run for run in found if run is not None), unreadable=unreadable, offers=_offers(self._view),
            alerts=_alerts(self._view), view_at=self._view_at, read_at=time.time(), store_error="", failing_since=0.0,
        )  # fmt: skip

    async def _read_run(
        self, store: Store, name: str, at_once: asyncio.Semaphore, unreadable: dict[str, str]
    ) -> RunFacts | None:
        from vl_agent.store import NotFound, StoreError

        former = self.facts.run(name)
        async with at_once:
            if former is not None and time.monotonic() < self._ended.get(name, 0.0):
                return self._with_view(former)
            try:
                found = await self._look(store, name, former)
            except NotFound:  # being submitted, or a folder that is no run
                return None
            except StoreError:
                raise
            except ProtocolError as error:
                unreadable[name] = str(error)
                return None
            except Exception as error:  # noqa: BLE001 - one run that nobody understands must not hide the others
                unreadable[name] = _unforeseen(error)
                return None
        if not found.live and found.timeline.ended:
            self._ended[name] = time.monotonic() + ENDED_LOOK_S
        return self._with_view(found)

    async def _look(self, store: Store, name: str, former: RunFacts | None) -> RunFacts:
        from vl_tui.store import journals, runs

        head = await runs.head(store, name)
        if name not in self._specs:
            self._specs[name] = await runs.spec(store, name)
        reader = self._journals.setdefault(name, journals.JournalReader(store, name))
        fold = self._folds.setdefault(name, Fold())
        lines = await reader.more()
        fold.add(line.event for line in sorted(lines, key=lambda line: line.order))
        timeline = fold.timeline() if lines or former is None else former.timeline
        return replace(former or RunFacts(name, None, head), spec=self._specs[name], head=head, timeline=timeline)

    def _with_view(self, run: RunFacts) -> RunFacts:
        """With what the controller tells of it now; one that has just taken over tells nothing yet."""
        views = self._view.get("runs")
        view = views.get(run.name) if isinstance(views, dict) else None
        return replace(run, view=view, view_at=self._view_at) if isinstance(view, dict) else run

    async def _read_view(self, store: Store) -> None:
        from vl_agent.store import NotFound

        try:
            found = json.loads((await store.get(VIEW_KEY)).data)
        except (NotFound, ValueError, RecursionError):
            return
        if not isinstance(found, dict):
            return
        published, before = number(found, "published_at"), number(self._view, "published_at")
        if not self._view:
            self._view_at = min(time.time(), published)  # by another's clock, until it is seen to change
        elif published != before:
            self._view_at = time.time()
        self._view = found

    # ------------------------------------------------------------------------------------------------------ wishes

    async def _read_answers(self, store: Store) -> None:
        from vl_tui.store import intents

        for intent in list(self._waiting.values()):
            done: IntentDone | None = await intents.answered(store, intent.id)
            if done is not None:
                del self._waiting[intent.id]
                self.answers[intent.id] = f"{intent.action} {intent.run}: {result(intent.action, done)}"

    async def _act(self, intent: Intent) -> None:
        from vl_agent.store import StoreError

        from vl_tui.controller import process

        self._acts = [task for task in self._acts if not task.done()]
        what = f"{intent.action} {intent.run}"
        try:
            if self._store is None:
                self.answers[intent.id] = f"{what}: not done, the store can't be reached"
                return
            async with self._leaving:  # keys act in the order in which they were pressed
                left, fresh = await self._leave(self._store, intent)
                self._waiting[left.id] = left
                self.answers[left.id] = f"{what}: {'told' if fresh else 'was asked for already'}"
            await self._see_to_controller()
            await asyncio.to_thread(process.wake, self._fleet.fleet)
        except (StoreError, ProtocolError) as error:
            self.answers[intent.id] = f"{what}: not done: {error}"
        finally:
            self._kick.set()
            self._changed()

    async def _leave(self, store: Store, intent: Intent) -> tuple[Intent, bool]:
        """Write the wish. One of its kind that is not answered yet, or whose box is on its way, is the same wish: then
        that one, and False."""
        from vl_tui.store import intents

        run = self.facts.run(intent.run)
        for attempt in range(MOST_WISHES):
            one = replace(intent, id=f"{intent.id}-{attempt}")
            if await intents.write(store, one):
                return one, True
            done = await intents.answered(store, one.id)
            if done is None or (done.result == "done" and run is not None and run.coming):
                break
        return one, False

    # ------------------------------------------------------------------------------------------------- the controller

    async def _keep_controller(self) -> None:
        while True:
            try:
                await self._see_to_controller()
            except Exception as error:  # noqa: BLE001 - said on the screen, and tried again
                self._publish(controller="none", controller_error=_unforeseen(error))
            await asyncio.sleep(CONTROLLER_S)

    async def _see_to_controller(self) -> None:
        """Where runs are live and no controller keeps them, start one on this host."""
        from vl_tui.controller import process

        where, error = "none", ""
        if await asyncio.to_thread(process.pid, self._fleet) is not None:
            where = "on this host"
        elif elsewhere := self._elsewhere():
            where = f"on {elsewhere}"
        elif self._waiting or any(run.live and self._is_ours(run) for run in self.facts.runs):
            try:
                await asyncio.to_thread(process.ensure_controller, self._fleet.path)
                where = "on this host"
            except (process.ControllerFailed, ConfigError) as failed:
                error = str(failed)
        if (where, error) != (self.facts.controller, self.facts.controller_error):
            self._publish(controller=where, controller_error=error)

    def _is_ours(self, run: RunFacts) -> bool:
        """Several fleets may share a store."""
        return run.spec is not None and run.spec.fleet == self._fleet.fleet

    def _elsewhere(self) -> str:
        """The other host whose controller still publishes; empty: none does."""
        host = text(self._view, "owner").rpartition(":")[0]
        talks = time.time() - self._view_at < SILENT_S
        return host if talks and host not in ("", socket.gethostname()) else ""


def result(action: str, done: IntentDone) -> str:
    """What became of a wish, for a person: a move that was granted has only begun."""
    begun = "under way" if action in ("migrate", "escalate") else "done"
    return f"{begun if done.result == 'done' else done.result} · {done.detail}"


def _unforeseen(error: Exception) -> str:
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = f" at {at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}" if at is not None else ""
    return f"an error that nobody foresaw ({type(error).__name__}{where}): it is a bug in vl-tui."


def _offers(view: Mapping[str, Any]) -> tuple[Offer, ...]:
    """The offers of a view; one that is none is left out."""
    found = []
    offers = view.get("offers")
    for body in offers if isinstance(offers, list) else ():
        with contextlib.suppress(ProtocolError):
            if isinstance(body, dict):
                found.append(decode(Offer, body))
    return tuple(found)


def _alerts(view: Mapping[str, Any]) -> tuple[tuple[float, str], ...]:
    alerts = view.get("alerts")
    bodies = [one for one in alerts if isinstance(one, dict)] if isinstance(alerts, list) else []
    return tuple((number(one, "t"), text(one, "text")) for one in bodies[-3:])
