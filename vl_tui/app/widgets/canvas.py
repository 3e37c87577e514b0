"""The one widget that screens are drawn on: rows in, changed lines out.

No child widgets, no layout: a row that is the same as before is not painted again, and nothing is painted while the
terminal has not taken what it was sent (a full output queue would block the whole event loop).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget

from vl_tui.app.draw import Row, strip
from vl_tui.app.theme import Look

FRAME_S = 1 / 15
"""Over ssh more frames a second cost more than they show."""
BEHIND = 4
BEHIND_S = 0.25

Draw = Callable[[int, int], list[Row]]


class Canvas(Widget, can_focus=True):
    """Draws what ``draw(width, height)`` returns. ``changed`` may be called as often as one likes: at most one paint
    is pending."""

    DEFAULT_CSS = "Canvas { width: 100%; height: 100%; }"

    def __init__(self, look: Look, draw: Draw) -> None:
        super().__init__()
        self.look, self._draw = look, draw
        self._rows: list[Row] = []
        self._strips: dict[int, Strip] = {}
        self._pending: Timer | None = None
        self.painted_at: float | None = None
        """When it was first on the screen, by the monotonic clock; None: not yet."""

    def changed(self) -> None:
        if self._pending is None:
            self._paint_in(FRAME_S)

    def repaint(self) -> None:
        """Draw now: a key was pressed."""
        if self._pending is not None:
            self._pending.stop()
        self._paint()

    def on_mount(self) -> None:
        self.repaint()

    def on_resize(self) -> None:
        self._rows, self._strips = [], {}
        self.repaint()
        self.refresh()

    def _paint_in(self, seconds: float) -> None:
        self._pending = self.set_timer(seconds, self._paint)

    def _paint(self) -> None:
        self._pending = None
        if self._is_behind():
            self._paint_in(BEHIND_S)
            return
        width, height = self.size
        if not width or not height:
            return
        rows = self._draw(width, height)[:height]
        rows += [Row()] * (height - len(rows))
        before = self._rows if len(self._rows) == height else [None] * height
        for y, (old, new) in enumerate(zip(before, rows, strict=True)):
            if old != new:
                self._strips.pop(y, None)
                self.refresh(Region(0, y, width, 1))
        self._rows = rows

    def _is_behind(self) -> bool:
        """Whether the terminal has not read what it was sent."""
        writer = getattr(self.app._driver, "_writer_thread", None)
        queue = getattr(writer, "_queue", None)
        return queue is not None and queue.qsize() > BEHIND

    def render_line(self, y: int) -> Strip:
        if self.painted_at is None and self._rows:
            self.painted_at = time.monotonic()
        width = self.size.width
        found = self._strips.get(y)
        if found is None or found.cell_length != width:
            base = Style(bgcolor=self.rich_style.bgcolor)
            found = strip(self._rows[y] if y < len(self._rows) else Row(), width, self.look, base)
            self._strips[y] = found
        return found
