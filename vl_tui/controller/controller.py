"""Keeps a fleet: finds its runs, gives each a keeper, asks providers, sweeps orphans, renews the lease, publishes.

Each of these is one method that does one round, so that a test can turn them by hand; ``run`` turns them by the clock.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from vl_agent.head import NewerController
from vl_agent.protocol import ENDED_STATES, Intent, IntentDone, ProtocolError
from vl_agent.store import NotFound, StoreError

from vl_tui.controller import view
from vl_tui.controller.keeper import Keeper
from vl_tui.controller.lease import TERM_S, Held
from vl_tui.controller.market import OFFERS_EVERY, Market
from vl_tui.controller.ports import Ports
from vl_tui.controller.runstate import RunState
from vl_tui.controller.sweep import Sweep
from vl_tui.controller.tracked import Tracked
from vl_tui.domain.run import Facts
from vl_tui.policy.exclusion import exclusions
from vl_tui.store import intents, runs

LOOK_S = 2.0
"""Between two looks for new runs and intents, when nobody wakes the controller."""
BOOTING_POLL_S = 1.0
"""Providers are asked at least so often while a box is on its way."""
SWEEP_S = 15.0
STALL_S = 2.0
"""A tick so late means that this process was stopped or the machine slept: silence meanwhile proves nothing."""
_ALERTS = 50


class Controller:
    """Runs one fleet while the lease is ours. Raises ``NewerController`` out of ``run`` when it no longer is."""

    def __init__(self, ports: Ports, lease: Held, *, idle_s: float = 30.0) -> None:
        self.ports, self.lease, self.idle_s = ports, lease, idle_s
        self.market = Market(ports)
        self.keepers: dict[str, Keeper] = {}
        self.sweep = Sweep(ports, lease, self._followed)
        self.alerts: list[dict[str, Any]] = []
        self._publisher = view.Publisher(ports.store, ports.clock)
        self._closed: set[str] = set()
        """Runs that have ended and left nothing, and runs that are not this fleet's."""
        self._unreadable: set[str] = set()
        self._wake = asyncio.Event()
        self._ask_now = {name: asyncio.Event() for name in ports.providers}
        self._newer: NewerController | None = None
        self._rounds = dict.fromkeys(ports.providers, 0)
        self._idle_since: float | None = None

    def wake(self) -> None:
        """Somebody left an intent or a run: look now."""
        self._wake.set()

    def ask_soon(self, provider: str) -> None:
        """A link dropped: its provider may know why."""
        if provider in self._ask_now:  # else it was taken out of fleet.yaml
            self._ask_now[provider].set()

    # -- one round each --

    async def look(self) -> None:
        """Find runs that have no keeper yet, and intents that have no answer. Raises ``StoreError``."""
        store = self.ports.store
        for name in await runs.names(store):
            if name not in self.keepers and name not in self._closed:
                await self._adopt(name)
        for intent in await intents.pending(store):
            if intent.action == "rollback":
                await self._bring_back(intent.run)
            keeper = self.keepers.get(intent.run)
            if keeper is not None:
                keeper.intend(intent)
            elif intent.run not in self._unreadable:
                await self._nobody(intent)

    async def _bring_back(self, name: str) -> None:
        """A run that has ended and left nothing gets a keeper again: a person wants to go back in it."""
        keeper = self.keepers.get(name)
        if keeper is not None and keeper.finished:
            del self.keepers[name]
        if name in self._closed or keeper is not self.keepers.get(name):
            await self._adopt(name, ended_too=True)

    async def _adopt(self, name: str, *, ended_too: bool = False) -> None:
        """A keeper for the run, unless it is another fleet's, or has ended and left nothing. One that can't be read is
        said once and looked at again: it holds up no other."""
        try:
            keeper = await self._keeper(name, ended_too=ended_too)
        except NotFound:
            return  # being submitted: the head comes last
        except ProtocolError as error:
            if name not in self._unreadable:
                self._unreadable.add(name)
                self.alert(f"{name}: {error}")
            return
        self._unreadable.discard(name)
        if keeper is None:
            self._closed.add(name)
            return
        self._closed.discard(name)
        self.keepers[name] = keeper
        self.ports.say(f"{name}: kept from epoch {keeper.state.head.epoch}, {keeper.state.head.state}")
        for ask_now in self._ask_now.values():
            ask_now.set()

    async def _keeper(self, name: str, *, ended_too: bool) -> Keeper | None:
        """None: there is nothing to keep."""
        store = self.ports.store
        spec, head = await runs.spec(store, name), await runs.head(store, name)
        if spec.fleet != self.ports.fleet:
            return None
        state = RunState(
            self.ports, self.lease, self.market, spec, head,
            changed=lambda: keeper.wake(), ask_now=self.ask_soon,
        )  # fmt: skip
        keeper = Keeper(state, self.facts)
        await state.load(stamp=head.state not in ENDED_STATES)
        return None if state.done and not ended_too else keeper

    async def _nobody(self, intent: Intent) -> None:
        """Answer an intent for a run that nobody keeps."""
        ended = intent.run in self._closed
        words = "the run has ended" if ended else f"no run {intent.run} in this fleet"
        wall = self.ports.clock.wall()
        done = IntentDone(intent.id, "ignored" if ended else "refused", words, self.lease.generation, wall)
        await intents.answer(self.ports.store, done)

    def facts(self, gpu: str) -> Facts:
        """What is true for all runs, as ``decide`` wants it for one that asks for ``gpu``."""
        every = [tracked for keeper in self.keepers.values() for tracked in keeper.state.launches.values()]
        ended = [(tracked.record, tracked.end) for tracked in every if tracked.end is not None]
        owned = (tracked.record for tracked in every if not tracked.terminated and tracked.record.market == "owned")
        return Facts(
            offers=self.market.offers_for(gpu),
            offers_known=self.market.offers_known(gpu),
            exclusions=exclusions(ended, self.ports.clock.wall()),
            busy=frozenset(record.offer for record in owned),
        )

    async def ask(self, provider: str) -> None:
        """Ask one provider about every box that is not known to be gone; now and then about offers."""
        gpus = {keeper.state.spec.gpu for keeper in self.keepers.values()}
        known = all(self.market.offers_known_from(provider, gpu) for gpu in gpus)
        if not known or self._rounds[provider] % OFFERS_EVERY == 0:
            await self.market.ask_offers(provider, gpus)
            for keeper in self.keepers.values():
                keeper.wake()
        self._rounds[provider] += 1
        await self.market.ask_boxes(provider, [tracked for tracked in self._tracked() if not tracked.terminated])

    async def publish(self) -> None:
        await self._publisher.offer(
            view.document(
                generation=self.lease.generation,
                owner=self.lease.owner,
                now=self.ports.clock.wall(),
                offers=self.market.offers,
                keepers=self.keepers.values(),
                alerts=self.alerts,
            )
        )

    def alert(self, text: str) -> None:
        self.ports.say(text)
        self.alerts.append({"t": self.ports.clock.wall(), "text": text})
        del self.alerts[:-_ALERTS]

    def idle(self) -> bool:
        """Whether nothing has been left to keep for so long that this process may end."""
        now = self.ports.clock.mono()
        if self._unreadable or any(not keeper.finished for keeper in self.keepers.values()):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        return self._idle_since is not None and now - self._idle_since >= self.idle_s

    def _tracked(self) -> list[Tracked]:
        return [tracked for keeper in self.keepers.values() for tracked in keeper.state.launches.values()]

    def _followed(self, run: str, number: int) -> bool:
        keeper = self.keepers.get(run)
        tracked = keeper.state.launches.get(number) if keeper else None
        return tracked is not None and not tracked.terminated

    # -- by the clock --

    async def run(self) -> None:
        """Until nothing is left to keep. Raises ``NewerController`` when another controller keeps the fleet."""
        try:
            async with asyncio.TaskGroup() as group:
                rounds = [
                    *(
                        group.create_task(self._every(partial(self.ask, name), self._poll_s, self._ask_now[name]))
                        for name in self.ports.providers
                    ),
                    group.create_task(self._every(self.sweep.round, lambda: SWEEP_S)),
                    group.create_task(self._every(self.lease.renew, lambda: TERM_S / 3)),
                    group.create_task(self._every(self.publish, lambda: 0.5)),
                    group.create_task(self._pulse()),
                ]
                keeping = await self._look_on(group)
                for task in rounds + keeping:
                    task.cancel()
        finally:
            for keeper in self.keepers.values():
                await keeper.close()
        if self._newer is not None:
            raise self._newer
        await self.publish()

    async def _look_on(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Look for runs until nothing is left; each gets a task that keeps it. Returns those tasks."""
        keeping: dict[Keeper, asyncio.Task[None]] = {}
        while self._newer is None and not self.idle():
            await self._guarded(self.look)
            for name, keeper in self.keepers.items():
                if keeper not in keeping:
                    keeping[keeper] = group.create_task(self._keep(keeper), name=f"run {name}")
            await _wait(self._wake, LOOK_S)
        return list(keeping.values())

    async def _keep(self, keeper: Keeper) -> None:
        """One run's faults are its own: they are said, and the others are kept on."""
        while not keeper.finished:
            await self._guarded(keeper.keep)
            if not keeper.finished:
                await self.ports.clock.sleep(self.ports.dice.uniform(2, 5))

    async def _every(
        self, round_: Callable[[], Awaitable[Any]], pause_s: Callable[[], float], now: asyncio.Event | None = None
    ) -> None:
        while True:
            await self._guarded(round_)
            await _wait(now or asyncio.Event(), pause_s() * self.ports.dice.uniform(0.9, 1.1))

    async def _guarded(self, round_: Callable[[], Awaitable[Any]]) -> None:
        try:
            await round_()
        except NewerController as error:
            self._newer = error
            self._wake.set()
        except (StoreError, ProtocolError) as error:
            self.ports.say(str(error))
        except Exception as error:  # noqa: BLE001 - a bug in one round must not stop a failover in another
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.alert(f"a fault in the controller itself: {type(error).__name__} at {where.filename}:{where.lineno}")

    def _poll_s(self) -> float:
        booting = any(
            (tracked.end is None and tracked.watch.beat is None) or (tracked.end is not None and not tracked.terminated)
            for tracked in self._tracked()
        )
        return min(self.ports.poll_s, BOOTING_POLL_S) if booting else self.ports.poll_s

    async def _pulse(self) -> None:
        """A late tick voids every silence: this process was stopped, or the machine slept."""
        before = self.ports.clock.mono()
        while True:
            await self.ports.clock.sleep(0.5)
            now = self.ports.clock.mono()
            if now - before > 0.5 + STALL_S:
                self.ports.say(f"this process stood still for {now - before:.1f} s: silences meanwhile do not count")
                for keeper in self.keepers.values():
                    keeper.state.deaf()
            before = now


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
