"""Dialogs: drawn on a canvas over the dimmed screen, closed by a key.

Where a terminal answers a question that a log line asked, its answer arrives as keys in one burst: a key that comes
less than 50 ms after another does nothing here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from textual import events
from textual.app import ComposeResult
from textual.screen import ModalScreen

from vl_tui.app.dialogs import candidate_rows
from vl_tui.app.dialogs.candidate_rows import Choice
from vl_tui.app.draw import Piece, Row, fit, pad, row
from vl_tui.app.widgets.canvas import Canvas

if TYPE_CHECKING:
    from vl_tui.app.app import VlApp

T = TypeVar("T")
BURST_S = 0.05


class Dialog(ModalScreen[T]):
    """A frame in the middle. Subclasses give ``content`` and take keys in ``pressed``."""

    DEFAULT_CSS = """
    Dialog { align: center middle; background: $background 60%; }
    Dialog > Canvas { background: $surface; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._last_key = 0.0

    @property
    def vl(self) -> VlApp:
        return cast("VlApp", self.app)

    def compose(self) -> ComposeResult:
        self.canvas = Canvas(self.vl.look, lambda width, height: self.content(width))
        yield self.canvas

    def on_mount(self) -> None:
        self._fit()

    def on_resize(self) -> None:
        self._fit()

    def facts_changed(self) -> None:
        """A dialog keeps what it showed when it opened: a list that moves under the finger is a trap."""

    def content(self, width: int) -> list[Row]:
        raise AssertionError("a dialog draws itself")

    def pressed(self, key: str) -> None:
        raise AssertionError("a dialog takes keys")

    def on_key(self, event: events.Key) -> None:
        event.stop()
        now = time.monotonic()
        burst, self._last_key = now - self._last_key < BURST_S, now
        if not burst:
            self.pressed(event.key)

    def redraw(self) -> None:
        self._fit()
        self.canvas.repaint()

    def _fit(self) -> None:
        width = min(self.vl.size.width - 2, 104 if self.vl.size.width >= 120 else 76)
        self.canvas.styles.width = width
        self.canvas.styles.height = min(len(self.content(width)), max(3, self.vl.size.height - 2))


class CandidatesDialog(Dialog[str | None]):
    """Migrate or escalate. Its result: the key of the offer to go to; None: stay."""

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self.choice = choice
        self.picked = 1 if choice.found else 0

    def content(self, width: int) -> list[Row]:
        return candidate_rows.rows(self.choice, self.picked, width, self.vl.facts.now)

    def pressed(self, key: str) -> None:
        last = len(self.choice.found)
        if key == "escape":
            self.dismiss(None)
        elif key == "enter":
            self.dismiss(self.choice.found[self.picked - 1].offer.key if self.picked else None)
        elif key.isdigit() and int(key) <= last:
            self.picked = int(key)
        elif key in ("j", "down", "k", "up"):
            order = [*range(1, last + 1), 0]
            at = order.index(self.picked) + (1 if key in ("j", "down") else -1)
            self.picked = order[at % len(order)]
        if self.is_current:
            self.redraw()


class ConfirmDialog(Dialog[bool]):
    """A destructive act: cancel is what enter does, until another choice is picked."""

    def __init__(self, title: str, lines: Sequence[str], act: str) -> None:
        super().__init__()
        self._title, self._lines, self._act = title, lines, act
        self.yes = False

    def content(self, width: int) -> list[Row]:
        cancel, do = ("  ", "▸ ") if self.yes else ("▸ ", "  ")
        on_cancel, on_do = ("", "select") if self.yes else ("select", "")
        body = [
            row(Piece(self._title, "bright", True)), row(),
            *(row(Piece(line, "text")) for line in self._lines), row(),
            row(Piece(cancel, "bright"), Piece("0 ", "key"), Piece("cancel", "text"), on=on_cancel),
            row(Piece(do, "bright"), Piece("1 ", "key"), Piece(self._act, "lost"), on=on_do),
            row(), row(Piece("⏎", "key", True), Piece(f" {self._act if self.yes else 'cancel'}   ", "text"),
                       Piece("0-1", "key", True), Piece(" pick   ", "text"), Piece("esc", "key", True),
                       Piece(" cancel", "text")),
        ]  # fmt: skip
        return framed(body, width)

    def pressed(self, key: str) -> None:
        if key == "escape":
            self.dismiss(False)
        elif key == "enter":
            self.dismiss(self.yes)
        elif key in ("0", "1", "j", "k", "up", "down"):
            self.yes = key == "1" or (key in ("j", "down"))
            self.redraw()


class HelpDialog(Dialog[None]):
    """The keys of a screen."""

    def __init__(self, name: str, keys: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._name, self._keys = name, keys

    def content(self, width: int) -> list[Row]:
        lines = [row(Piece(pad(keys, 10), "key", True), Piece(words, "text")) for keys, words in self._keys]
        legend = (
            "━ train  ╍ repeat  ● durable  ○ saved  ▲ notice  ✗ lost", "┄ provision  ═ restore  ⇄ migrate  ⇑ escalate",
        )  # fmt: skip
        told = [row(Piece(text, "dim")) for text in legend]
        return framed([row(Piece(f"keys of {self._name}", "bright", True)), row(), *lines, row(), *told], width)

    def pressed(self, key: str) -> None:
        self.dismiss(None)


def framed(body: Sequence[Row], width: int) -> list[Row]:
    """Rows inside a frame, which only dialogs have."""
    top = row(Piece("╭" + "─" * (width - 2) + "╮", "key"))
    bottom = row(Piece("╰" + "─" * (width - 2) + "╯", "key"))
    lines = [Row((Piece("│ ", "key"), *fit(line, width - 4)), (Piece(" │", "key"),), line.on) for line in body]
    return [top, *lines, bottom]
