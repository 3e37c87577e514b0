"""The app driven by keys without a terminal: a reader put in its place, and what is on the screen as text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

from textual.pilot import Pilot
from vl_agent.protocol import Intent

from tests.app.hand_made import LOOK, facts, training
from vl_tui.app.app import VlApp
from vl_tui.app.dialogs.dialog import BURST_S, Dialog
from vl_tui.app.facts import Facts
from vl_tui.app.log import LogStore
from vl_tui.app.theme import Look

WITHIN_S = 20.0


class PutIn:
    """Stands where the reader does: shows the facts that it is given, and remembers what it is asked."""

    def __init__(self, found: Facts) -> None:
        self.given = found
        self.log = LogStore()
        self.answers: dict[str, str] = {}
        self.acts: list[Intent] = []
        self.followed: list[str | None] = []
        self.started = self.stopped = 0

    @property
    def facts(self) -> Facts:
        """As fresh as can be."""
        if self.given.first:
            return self.given
        return replace(self.given, read_at=time.time(), view_at=time.time())

    def start(self) -> None:
        self.started += 1

    def stop(self) -> None:
        self.stopped += 1

    def follow(self, name: str | None) -> None:
        self.followed.append(name)

    def act(self, intent: Intent) -> None:
        self.acts.append(intent)


class Driven:
    """An app that runs, and its keys."""

    def __init__(self, app: VlApp, pilot: Pilot[None], reader: PutIn) -> None:
        self.app, self.pilot, self.reader = app, pilot, reader

    async def press(self, *keys: str) -> None:
        """Keys as a person presses them: a dialog is seen before it is answered."""
        for key in keys:
            if isinstance(self.app.screen, Dialog):
                canvas = self.app.screen.canvas
                await self.until(lambda canvas=canvas: canvas.painted_at is not None)
                await asyncio.sleep(1.2 * BURST_S)
            await self.pilot.press(key)
        await self.pilot.pause()

    async def burst(self, *keys: str) -> None:
        """Keys that arrive at once, as from a paste."""
        from textual import events

        for key in keys:
            self.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await self.pilot.pause()
        await self.pilot.pause()

    async def until(self, true: Any, within_s: float = WITHIN_S) -> None:
        end = time.monotonic() + within_s
        while not true():
            assert time.monotonic() < end, f"not within {within_s} s:\n{self.text}"
            await self.pilot.pause()

    async def see(self, words: str) -> str:
        """Wait until the screen shows ``words``; what it shows then."""
        await self.until(lambda: words in self.text)
        return self.text

    @property
    def text(self) -> str:
        return "\n".join(strip.text for strip in self.app.screen._compositor.render_strips(self.app.size))

    @property
    def dialog(self) -> Dialog[Any]:
        assert isinstance(self.app.screen, Dialog)
        return cast("Dialog[Any]", self.app.screen)


@asynccontextmanager
async def driven(
    found: Facts | None = None, *, size: tuple[int, int] = (80, 24), look: Look = LOOK
) -> AsyncIterator[Driven]:
    """The app at the Fleet screen, over these facts (one run that trains, where none are given)."""
    reader = PutIn(facts(training()) if found is None else found)
    app = VlApp(cast("Any", None), look, reader=reader)
    async with app.run_test(size=size) as pilot:
        one = Driven(app, pilot, reader)
        await one.see("fleet")
        yield one
