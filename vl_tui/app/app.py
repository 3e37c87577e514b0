"""The app: screens over facts that are read elsewhere. It renders and sends intents; it calls no provider and moves no
head, and closing it ends nothing."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

from textual.app import App
from textual.binding import Binding
from textual.message import Message
from vl_agent.protocol import ENDED_STATES, Intent, IntentAction

from vl_tui.app.dialogs import candidate_rows
from vl_tui.app.dialogs.dialog import CandidatesDialog, ConfirmDialog, Dialog, HelpDialog
from vl_tui.app.facts import Facts
from vl_tui.app.log import LogStore
from vl_tui.app.reader import Reader
from vl_tui.app.screens.base import DrawnScreen
from vl_tui.app.screens.fleet import FleetScreen
from vl_tui.app.screens.run import RunScreen
from vl_tui.app.theme import Look
from vl_tui.config import FleetConfig

STATUS_S = 8.0
TICK_S = 1.0
"""Ages grow also when nothing happens."""


class Heard(Message):
    """The reader has put new facts together."""


class VlApp(App[None]):
    """``reader`` may be put in by tests: whatever has the reader's attributes and calls."""

    TITLE = "vl-tui"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS = [
        Binding("q", "leave", "quit", show=False),
        Binding("ctrl+c", "leave", "quit", show=False, priority=True),
    ]

    def __init__(self, fleet: FleetConfig, look: Look, *, reader: Any = None) -> None:
        super().__init__()
        self.look = look
        self._reader: Reader = reader if reader is not None else Reader(fleet, self._heard)
        self._status = ("", 0.0)
        self._told: dict[str, str] = {}
        self._armed = False

    # ------------------------------------------------------------------------------------------------ what is shown

    @property
    def facts(self) -> Facts:
        return self._reader.facts

    @property
    def log_store(self) -> LogStore:
        return self._reader.log

    @property
    def status(self) -> str:
        """What became of the last act, for some seconds."""
        words, until = self._status
        return words if time.monotonic() < until else ""

    def say(self, words: str) -> None:
        self._status = (words, time.monotonic() + STATUS_S)
        self._redraw()

    # -------------------------------------------------------------------------------------------------------- life

    def on_mount(self) -> None:
        self.register_theme(self.look.theme)
        self.theme = self.look.theme.name
        self.push_screen(FleetScreen())
        self.set_interval(TICK_S, self._tick)
        self.call_after_refresh(self._reader.start)

    def on_unmount(self) -> None:
        self._reader.stop()

    def action_leave(self) -> None:
        self.exit()

    def _handle_exception(self, error: Exception) -> None:
        """Instead of Textual's own traceback, which shows locals: ``show`` raises it once the terminal is restored."""
        self._return_code = 1
        if self._exception is None:
            self._exception = error
            self._exception_event.set()
        self._close_messages_no_wait()

    def _heard(self) -> None:
        """Called in the reader's thread: at most one call is on its way."""
        if self._armed:
            return
        self._armed = True
        try:
            self.post_message(Heard())  # not a call: timers set in a call from another thread never fire
        except RuntimeError:  # the loop has been closed: the app is leaving
            return

    def on_heard(self) -> None:
        self._tick()

    def _tick(self) -> None:
        self._armed = False
        for intent_id, words in list(self._reader.answers.items()):
            if self._told.get(intent_id) != words:
                self._told[intent_id] = words
                self._status = (words, time.monotonic() + STATUS_S)
        self._redraw()

    def _redraw(self) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, (DrawnScreen, Dialog)):
                screen.facts_changed()

    # ------------------------------------------------------------------------------------------------------- acting

    def open_run(self, name: str) -> None:
        self.push_screen(RunScreen(name))

    def follow(self, name: str | None) -> None:
        self._reader.follow(name)

    def show_help(self, name: str, keys: Sequence[tuple[str, str]]) -> None:
        self.push_screen(HelpDialog(name, keys))

    def act(self, action: IntentAction | str, name: str) -> None:
        """Open the dialog of an act: nothing acts on one key."""
        run = self.facts.run(name)
        if run is None:
            return
        if run.head.state in ENDED_STATES:
            self.say(f"{name} has {run.head.state}: there is nothing to {action}")
            return
        if action == "stop":
            kept = run.head.checkpoint
            lines = (
                "It saves once more where it can, then its box is given back.",
                f"Its checkpoint at step {kept.step:,} stays in the store." if kept else "It has no checkpoint yet.",
            )
            confirm = ConfirmDialog(f"Stop {name}", lines, "stop the run")
            self.push_screen(confirm, lambda yes: self._send("stop", name, run.head.epoch, "") if yes else None)
            return
        choice = candidate_rows.choice(self.facts, run, action, time.time())
        move: IntentAction = "escalate" if action == "escalate" else "migrate"
        self.push_screen(
            CandidatesDialog(choice), lambda offer: self._send(move, name, choice.epoch, offer) if offer else None
        )

    def _send(self, action: IntentAction, name: str, epoch: int, offer: str) -> None:
        """Leave the wish. Its id is made from what it asks, so that a key pressed twice acts once."""
        intent = Intent(
            id=f"{name}-{epoch}-{action}", run=name, epoch=epoch, action=action, offer=offer,
            by=f"{_user()}@{socket.gethostname()}", at=time.time(),
        )  # fmt: skip
        self.say(f"{action} {name}: told")
        self._reader.act(intent)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        return "somebody"


async def show(fleet: FleetConfig, look: Look) -> bool:
    """Show the app until it is left. Whether runs were live then. Raises what ended the app, if anything did."""
    app = VlApp(fleet, look)
    with _ended_by_signals(app):
        await app.run_async(mouse=False)
    if app._exception is not None:
        raise app._exception
    return any(run.live for run in app.facts.runs)


@contextlib.contextmanager
def _ended_by_signals(app: VlApp) -> Iterator[None]:
    """A terminal is given back as it was, also by an app that is told to end."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, app.exit)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
