"""Dialogs: drawn on a canvas over the dimmed screen, closed by a key.

Where a terminal answers a question that a log line asked, or a person pastes, keys arrive in one burst: a key that
comes less than 50 ms after another, or before the dialog has been seen for as long, does nothing here.
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
from vl_tui.app.dialogs.frame import framed, keys_row
from vl_tui.app.draw import Piece, Row, pad, row, wrap
from vl_tui.app.screens.base import SMALLEST
from vl_tui.app.screens.lane_rows import LEGEND
from vl_tui.app.widgets.canvas import Canvas
from vl_tui.domain.lanes import GLYPHS

if TYPE_CHECKING:
    from vl_tui.app.app import VlApp

T = TypeVar("T")
BURST_S = 0.05
WIDTH, WIDE_WIDTH = 76, 104


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
        self.canvas = Canvas(self.vl.look, lambda width, height: self.content(width, self._most))
        yield self.canvas

    def on_mount(self) -> None:
        self._fit()

    def on_resize(self) -> None:
        self._fit()

    def facts_changed(self) -> None:
        """A dialog keeps the choices it opened with, a list that moves under the finger is a trap; only ages grow."""
        if hasattr(self, "canvas"):
            self.canvas.changed()

    def content(self, width: int, height: int) -> list[Row]:
        """Rows of exactly ``width`` cells, at most ``height``."""
        raise AssertionError("a dialog draws itself")

    def pressed(self, key: str) -> None:
        raise AssertionError("a dialog takes keys")

    def on_key(self, event: events.Key) -> None:
        event.stop()
        if self.app.screen is not self:  # a key that was on its way here when the dialog closed
            return
        now = time.monotonic()
        shown = self.canvas.painted_at
        before = max(self._last_key, now if shown is None else shown)
        self._last_key = now
        if now - before >= BURST_S and (self._is_whole or event.key == "escape"):
            self.pressed(event.key)

    def redraw(self) -> None:
        self._fit()
        self.canvas.repaint()

    @property
    def _is_whole(self) -> bool:
        """Whether the terminal is large enough to show what a key would do."""
        return self.vl.size.width >= SMALLEST[0] and self.vl.size.height >= SMALLEST[1]

    @property
    def _most(self) -> int:
        return max(3, self.vl.size.height - 2)

    def _fit(self) -> None:
        width = min(self.vl.size.width - 2, WIDE_WIDTH if self.vl.size.width >= 120 else WIDTH)
        self.canvas.styles.width = width
        self.canvas.styles.height = min(len(self.content(width, self._most)), self._most)


class CandidatesDialog(Dialog[str | None]):
    """Migrate or escalate. Its result: the key of the offer to go to; None: stay."""

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self.choice = choice
        self.picked = choice.best(time.time())

    def content(self, width: int, height: int) -> list[Row]:
        return candidate_rows.rows(self.choice, self.picked, width, height, time.time())

    def pressed(self, key: str) -> None:
        last = len(self.choice.found)
        if key == "escape":
            self.dismiss(None)
        elif key == "enter":
            self.dismiss(self.choice.found[self.picked - 1].offer.key if self.picked else None)
        elif key.isdecimal() and int(key) <= last:
            self.picked = int(key)
        elif key in ("j", "down", "k", "up"):
            order = [*range(1, last + 1), 0]
            at = order.index(self.picked) + (1 if key in ("j", "down") else -1)
            self.picked = order[at % len(order)]
        if self.app.screen is self:
            self.redraw()


class ConfirmDialog(Dialog[bool]):
    """A destructive act: cancel is what enter does, until another choice is picked."""

    def __init__(self, title: str, lines: Sequence[str], act: str) -> None:
        super().__init__()
        self._title, self._lines, self._act = title, lines, act
        self.yes = False

    def content(self, width: int, height: int) -> list[Row]:
        choices = [("0", "cancel", "text", not self.yes), ("1", self._act, "lost", self.yes)]
        lines = [line for text in self._lines for line in wrap(text, width - 4, 2)]
        body = [
            row(Piece(self._title, "bright", True)), Row(), *(row(Piece(line)) for line in lines), Row(),
            *(row(Piece("▸ " if here else "  ", "bright"), Piece(f"{key} ", "key"), Piece(text, role, here),
                  on="select" if here else "") for key, text, role, here in choices),
            Row(), keys_row([("enter", self._act if self.yes else "cancel"), ("0-1", "pick"), ("esc", "cancel")]),
        ]  # fmt: skip
        return framed(_squeezed(body, height - 2), width)

    def pressed(self, key: str) -> None:
        if key == "escape":
            self.dismiss(False)
        elif key == "enter":
            self.dismiss(self.yes)
        elif key in ("0", "1", "j", "k", "up", "down"):
            self.yes = key in ("1", "j", "down")
            self.redraw()


class HelpDialog(Dialog[None]):
    """The keys of a screen, and what the timeline's glyphs mean."""

    def __init__(self, name: str, keys: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._name, self._keys = name, keys

    def content(self, width: int, height: int) -> list[Row]:
        lines = [row(Piece(pad(keys, 10), "key", True), Piece(words)) for keys, words in self._keys]
        legend = _packed([f"{GLYPHS[kind][0]} {word}" for kind, word in LEGEND], width - 4)
        body = [row(Piece(f"keys of {self._name}", "bright", True)), Row(), *lines, Row(), *legend]
        return framed(_squeezed(body, height - 2), width)

    def pressed(self, key: str) -> None:
        self.dismiss(None)


def _packed(items: Sequence[str], width: int) -> list[Row]:
    """As many items in a row as fit."""
    lines = [""]
    for item in items:
        if lines[-1] and len(lines[-1]) + 2 + len(item) > width:
            lines.append("")
        lines[-1] += f"  {item}" if lines[-1] else item
    return [row(Piece(line, "dim")) for line in lines]


def _squeezed(body: list[Row], most: int) -> list[Row]:
    """Without its empty rows, from the first on, where there is no room for them."""
    while len(body) > most and Row() in body:
        body.remove(Row())
    return body[:most]
