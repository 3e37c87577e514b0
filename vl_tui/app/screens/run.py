"""Run: one run's timeline, and its log."""

from __future__ import annotations

import time
from dataclasses import replace

from textual import events

from vl_tui.app.draw import Row
from vl_tui.app.screens import run_rows
from vl_tui.app.screens.base import DrawnScreen
from vl_tui.app.screens.run_rows import RunState

HELP = (
    ("m", "migrate: where to, what it costs, when it ends"), ("e", "escalate to on-demand: the same"),
    ("s", "stop the run; its newest checkpoint stays"), ("f G", "follow the log"),
    ("j k ↑ ↓", "scroll the log; ^d ^u half a page"), ("g", "first line of the log"), ("esc", "back to the fleet"),
    ("q", "quit: runs and controller go on"),
)  # fmt: skip


class RunScreen(DrawnScreen):
    """One run."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.found = RunState(name)

    def rows(self, width: int, height: int) -> list[Row]:
        shown = replace(self.found, status=self.vl.status)
        return run_rows.rows(self.vl.facts, shown, self.vl.log_store, width, height, time.time())

    def on_mount(self) -> None:
        self.vl.follow(self.found.name)

    def on_unmount(self) -> None:
        self.vl.follow(None)

    def pressed(self, event: events.Key) -> None:
        key = event.key
        if key == "escape":
            self.vl.pop_screen()
        elif key in ("f", "G", "end"):
            self.found = replace(self.found, follow=True)
        elif key in ("j", "down", "k", "up", "g", "home", "ctrl+d", "ctrl+u", "pagedown", "pageup"):
            self._scroll(key)
        elif key == "question_mark":
            self.vl.show_help("run", HELP)
        elif key in ("m", "e", "s"):
            self.vl.act({"m": "migrate", "e": "escalate", "s": "stop"}[key], self.found.name)
        else:
            return
        event.stop()
        if self.app.screen is self:
            self.redraw()

    def _scroll(self, key: str) -> None:
        log = self.vl.log_store
        room = run_rows.log_room(self.vl.facts, self.found, log, *self.size, time.time())
        at = run_rows.first_line(self.found, log, room)
        half = max(1, room // 2)
        step = {"j": 1, "down": 1, "k": -1, "up": -1, "ctrl+d": half, "ctrl+u": -half}
        step |= {"pagedown": room, "pageup": -room}
        to = 0 if key in ("g", "home") else max(0, at + step[key])
        last = max(0, len(log) - room)
        self.found = replace(
            self.found, top=log.dropped + min(to, last), follow=to >= last and step.get(key, -1) > 0
        )  # fmt: skip
