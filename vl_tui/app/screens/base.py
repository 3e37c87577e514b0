"""What every screen here has: one canvas, facts that come in, keys that go out."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual import events
from textual.app import ComposeResult
from textual.screen import Screen

from vl_tui.app.draw import Piece, Row, row
from vl_tui.app.widgets.canvas import Canvas

if TYPE_CHECKING:
    from vl_tui.app.app import VlApp

SMALLEST = (60, 15)


class DrawnScreen(Screen[None]):
    """A screen that is one canvas. Subclasses give ``rows`` and take keys in ``pressed``."""

    def compose(self) -> ComposeResult:
        self.canvas = Canvas(self.vl.look, self._draw)
        yield self.canvas

    @property
    def vl(self) -> VlApp:
        return cast("VlApp", self.app)

    def rows(self, width: int, height: int) -> list[Row]:
        raise AssertionError("a screen draws itself")

    def pressed(self, event: events.Key) -> None:
        raise AssertionError("a screen takes keys")

    def on_key(self, event: events.Key) -> None:
        """Keys that were on their way here when a dialog opened are not answered under it."""
        if self.app.screen is self:
            self.pressed(event)
        else:
            event.stop()

    def facts_changed(self) -> None:
        """New facts are there; drawn with the next frame."""
        if hasattr(self, "canvas"):
            self.canvas.changed()

    def redraw(self) -> None:
        self.canvas.repaint()

    def on_screen_resume(self) -> None:
        self.facts_changed()

    def _draw(self, width: int, height: int) -> list[Row]:
        if width < SMALLEST[0] or height < SMALLEST[1]:
            return [row(Piece(f"{width}x{height} is too small: at least 60x15", "notice"))]
        return self.rows(width, height)
