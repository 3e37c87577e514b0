"""Keeps one run moving: look, decide, act, look again. One task a run; woken by whatever changes, else each beat."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace

from vl_agent.protocol import Intent
from vl_agent.store import StoreError

from vl_tui.controller import proof
from vl_tui.controller.actions import Action, Terminate, Wait
from vl_tui.controller.decide import decide
from vl_tui.controller.reconcile import NotNow, drop_link, perform
from vl_tui.controller.runstate import RunState
from vl_tui.controller.tracked import Tracked
from vl_tui.domain.evidence import TAKEN, VerdictName, statements
from vl_tui.domain.run import Facts

QUIET: tuple[VerdictName, ...] = ("alive", "suspect")
"""Verdicts that are journaled only as the end of another."""
_NUMBERS = re.compile(r"[0-9.]+")
_BETWEEN_ACTIONS_S = 0.02
_RETRY_FIRST_S, _RETRY_MOST_S = 0.5, 30.0


class Keeper:
    """The owner of one run. ``step`` is all it does; ``keep`` does it again and again until nothing is left."""

    def __init__(self, state: RunState, facts: Callable[[str], Facts]) -> None:
        self.state = state
        self._facts = facts
        self._wake = asyncio.Event()
        self._not_before: dict[tuple[str, int], tuple[float, float]] = {}
        """Actions that could not be done: when they may be tried again, and the pause after that."""
        self._verdict: tuple[int, VerdictName] = (0, "alive")
        self._told_waiting = ""
        self.finished = False

    def wake(self) -> None:
        self._wake.set()

    def intend(self, intent: Intent) -> None:
        """A person's wish for this run that is not answered yet."""
        if intent.id not in self.state.intents:
            self.state.intents[intent.id] = intent
            self.wake()

    async def keep(self) -> None:
        """Until the run has ended and its boxes are gone. Raises ``NewerController``."""
        clock = self.state.ports.clock
        while not self.finished:
            acted = await self.step()
            if acted:
                await clock.sleep(_BETWEEN_ACTIONS_S)
                continue
            try:
                async with asyncio.timeout(min(1.0, self.state.ports.beat_s)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def step(self) -> bool:
        """One round. True: something was done, so look again at once. Raises ``NewerController``."""
        run = self.state
        await run.observe()
        self._follow_links()
        acted = False
        try:
            await self._tell_verdict()
            run.waiting = ""
            facts = replace(self._facts(run.spec.gpu), store_reached=run.reached)
            for action in decide(run.view(), facts, run.ports.clock.wall()):
                if isinstance(action, Wait):
                    self._waits(action)
                elif self._ready(action):
                    acted |= await self._do(action)
            if run.reached:
                await proof.verify(run)
                await run.journal.flush()
        except StoreError as error:
            run.ports.say(f"{run.spec.name}: {error}")
            run.reached = False
            run.deaf()
            return False
        self.finished = run.done and proof.complete(run)
        return acted

    # -- acting --

    async def _do(self, action: Action) -> bool:
        run, key = self.state, _key(action)
        try:
            await perform(run, action)
        except NotNow as error:
            run.ports.say(str(error))
            _, pause = self._not_before.get(key, (0.0, _RETRY_FIRST_S))
            again = run.now + run.ports.dice.uniform(pause / 2, pause)
            self._not_before[key] = again, min(2 * pause, _RETRY_MOST_S)
            return False
        self._not_before.pop(key, None)
        if not isinstance(action, Terminate):  # its task says how it went
            run.ports.say(f"{run.spec.name}: {type(action).__name__} {_words(action)}")
        return True

    def _ready(self, action: Action) -> bool:
        not_before, _ = self._not_before.get(_key(action), (0.0, 0.0))
        return self.state.now >= not_before

    def _waits(self, wait: Wait) -> None:
        """Standing still for want of a place is journaled once for each reason."""
        run = self.state
        run.waiting = wait.why
        reason = _NUMBERS.sub("#", wait.why)
        if wait.stands and reason != self._told_waiting:
            self._told_waiting = reason
            run.rejected = tuple(dict(row) for row in wait.rejected)
            run.journal.tell("waiting", run.head.epoch, why=wait.why, rejected=list(run.rejected))

    # -- witnesses --

    async def _tell_verdict(self) -> None:
        """A verdict on the attempt's box is journaled when it changes to one that matters, and when that is over."""
        run = self.state
        holder, now = run.holder, run.now
        if holder is None or holder.end is not None or not run.reached or run.head.state not in ("starting", "running"):
            return
        verdict = holder.verdict(now, run.spec.grace_s, holds=True)
        epoch, before = self._verdict
        if epoch != run.head.epoch:
            before = "alive"
        if verdict.name == before or (verdict.name in QUIET and before in QUIET) or verdict.name == "suspect":
            return
        self._verdict = (run.head.epoch, verdict.name)
        run.journal.tell(
            "verdict", run.head.epoch, launch=holder.record.number, verdict=verdict.name, cause=verdict.cause,
            words=verdict.words, evidence=statements(holder.evidence(now, holds=True)),
        )  # fmt: skip
        await run.journal.flush()

    # -- links --

    def _follow_links(self) -> None:
        """Every box that is not known to be gone, and has an address, has a link; its agent is started over it."""
        for tracked in self.state.launches.values():
            box = tracked.box
            if tracked.terminated or box is None or box.ssh is None or box.state in TAKEN or "link" in tracked.tasks:
                continue
            if tracked.end is not None and tracked.watch.beat is None:
                continue
            self._open_link(tracked)

    def _open_link(self, tracked: Tracked) -> None:
        run = self.state
        assert tracked.box is not None
        ear = tracked.heard(lambda: run.now)
        link = run.ports.connect(run.spec, tracked.record, tracked.box, ear, supervise=tracked.end is None)

        async def owned() -> None:
            try:
                await link.run()
                return
            except Exception as error:  # noqa: BLE001 - what nobody foresaw, perhaps at a box's word: opened again
                ear.link("down", f"a fault in the link itself: {type(error).__name__}: {error}")
                await run.ports.clock.sleep(run.ports.dice.uniform(2, 5))
                tracked.tasks.pop("link", None)
            finally:
                ear.closed = True

        tracked.link = link
        tracked.tasks["link"] = asyncio.create_task(owned(), name=f"link {tracked.record.name}")

    async def close(self) -> None:
        """Let go of links and requests; the run itself is not touched."""
        for tracked in self.state.launches.values():
            await drop_link(tracked)
            tasks = list(tracked.tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _key(action: Action) -> tuple[str, int]:
    launch = getattr(action, "launch", 0)
    return type(action).__name__, launch if isinstance(launch, int) else 0


def _words(action: Action) -> str:
    fields = {key: value for key, value in vars(action).items() if isinstance(value, (str, int)) and value != ""}
    return " ".join(f"{key}={value}" for key, value in fields.items())
