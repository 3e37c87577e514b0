"""Fleet: every run at a glance."""

from __future__ import annotations

import time
from dataclasses import replace

from textual import events

from vl_tui.app.draw import Row
from vl_tui.app.facts import RunFacts
from vl_tui.app.screens import fleet_rows
from vl_tui.app.screens.base import DrawnScreen
from vl_tui.app.screens.fleet_rows import FleetState

HELP = (
    ("j k ↑ ↓", "move; g G first and last"), ("enter", "open the run"),
    ("m", "migrate: where to, what it costs, when it ends"), ("e", "escalate to on-demand: the same"),
    ("s", "stop the run; its newest checkpoint stays"),
    ("/", "filter by name, state or place; !word leaves out"), ("q", "quit: runs and controller go on"),
)  # fmt: skip


class FleetScreen(DrawnScreen):
    """The first screen."""

    found = FleetState()

    def rows(self, width: int, height: int) -> list[Row]:
        shown = replace(self.found, status=self.vl.status)
        return fleet_rows.rows(self.vl.facts, shown, width, height, time.time())

    @property
    def current(self) -> RunFacts | None:
        return fleet_rows.current(self.vl.facts, self.found)

    def pressed(self, event: events.Key) -> None:
        if self.found.typing:
            self._type(event)
        else:
            self._command(event)
        self.redraw()

    def _type(self, event: events.Key) -> None:
        event.stop()
        if event.key == "enter":
            self.found = replace(self.found, typing=False)
        elif event.key == "escape":
            self.found = replace(self.found, typing=False, filter="")
        elif event.key == "backspace":
            self.found = replace(self.found, filter=self.found.filter[:-1])
        elif event.character and event.character.isprintable() and len(self.found.filter) < 40:
            self.found = replace(self.found, filter=self.found.filter + event.character)

    def _command(self, event: events.Key) -> None:
        here = self.current
        key = event.key
        if key in ("j", "down", "k", "up", "g", "G", "home", "end"):
            self._move(key)
        elif key == "slash":
            self.found = replace(self.found, typing=True)
        elif key == "escape":
            self.found = replace(self.found, filter="")
        elif key == "question_mark":
            self.vl.show_help("fleet", HELP)
        elif key == "enter" and here is not None:
            self.vl.open_run(here.name)
        elif key in ("m", "e", "s") and here is not None:
            self.vl.act({"m": "migrate", "e": "escalate", "s": "stop"}[key], here.name)
        else:
            return
        event.stop()

    def _move(self, key: str) -> None:
        runs = fleet_rows.shown(self.vl.facts, self.found)
        if not runs:
            return
        here = self.current
        at = runs.index(here) if here in runs else 0
        to = {"j": at + 1, "down": at + 1, "k": at - 1, "up": at - 1, "g": 0, "home": 0}.get(key, len(runs) - 1)
        self.found = replace(self.found, cursor=runs[max(0, min(to, len(runs) - 1))].name)
