"""A timeline as cells of a screen: one lane an attempt, columns of time, one glyph with one meaning. Pure.

All state glyphs are lines on one axis, events sit on the line. A column is of the ladder's width and aligned to the
clock, so that nothing shimmers as time moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vl_tui.domain.timeline import LOST_REASONS, Attempt, Timeline

LADDER_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
"""Widths of a column in seconds."""

GLYPHS: Mapping[str, tuple[str, str, str]] = {
    "train": ("━", "=", "train"),
    "repeat": ("╍", "~", "repeat"),
    "provision": ("┄", ".", "prov"),
    "restore": ("═", "r", "restore"),
    "durable": ("●", "D", "durable"),
    "saved": ("○", "s", "durable"),
    "notice": ("▲", "!", "notice"),
    "lost": ("✗", "X", "lost"),
    "migrated": ("⇄", "M", "migrate"),
    "escalated": ("⇑", "E", "escalate"),
    "finished": ("✓", "v", "durable"),
    "stopped": ("■", "x", "dim"),
    "live": ("▌", "|", "bright"),
    "unknown": ("?", "?", "notice"),
    "guide": ("┊", ":", "line"),
}
"""State or event: unicode, ASCII, role. One glyph, one meaning."""
_PRIORITY = ("lost", "finished", "stopped", "escalated", "migrated", "notice", "durable", "saved")


@dataclass(frozen=True)
class Cell:
    glyph: str
    role: str


BLANK = Cell(" ", "faint")


@dataclass(frozen=True)
class Scale:
    """Which time each column stands for."""

    start: float
    column_s: int
    width: int

    def column(self, at: float) -> int:
        return int((at - self.start) // self.column_s)

    @property
    def words(self) -> str:
        for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
            if self.column_s >= size:
                return f"{self.column_s // size} {unit}"
        return f"{self.column_s} s"


def scale(timeline: Timeline, now: float, width: int) -> Scale:
    """The finest scale of the ladder on which the whole run fits into ``width`` columns."""
    start = timeline.start if timeline.start is not None else now
    start = min(start, now)
    for column_s in LADDER_S:
        first = start // column_s * column_s
        if (now - first) // column_s + 2 <= width:
            return Scale(first, column_s, width)
    column_s = LADDER_S[-1]
    return Scale((now // column_s - width + 2) * column_s, column_s, width)


def guides(found: Scale, offset_s: float) -> list[tuple[int, str]]:
    """(column, label) of round moments, a dozen columns apart or more; ``offset_s``: local time less UTC."""
    for every in (10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400, 604800):
        if every >= found.column_s * 10:
            break
    first = (found.start + offset_s) // every * every + every
    labels: list[tuple[int, str]] = []
    at = first
    while True:
        column = found.column(at - offset_s)
        if column >= found.width - 5:
            return labels
        labels.append((column, _clock(at, every)))
        at += every


def _clock(local: float, every: int) -> str:
    day, second = divmod(int(local), 86400)
    if every >= 86400 or second == 0:
        return f"day {day % 1000}" if every >= 86400 else "00:00"
    return f"{second // 3600:02d}:{second // 60 % 60:02d}" + (f":{second % 60:02d}" if every < 60 else "")


def lane(
    attempt: Attempt, found: Scale, now: float, *, ascii_only: bool = False, ruled: Sequence[int] = ()
) -> list[Cell]:
    """One attempt as exactly ``found.width`` cells."""
    cells = [BLANK] * found.width
    for column in ruled:
        if 0 <= column < found.width and found.start + column * found.column_s < now:
            cells[column] = _cell("guide", ascii_only)
    live_at = found.column(now)
    # Training is drawn up to the last word of its agent; since then nobody knows.
    heard = attempt.heard_at if attempt.live else None
    for segment in attempt.segments(now):
        end = segment.end if segment.end is not None else (max(segment.start, heard) if heard is not None else now)
        _draw(cells, found, segment.start, end, segment.state, attempt, ascii_only)
    if attempt.live and heard is not None:
        for column in range(found.column(heard) + 2, min(live_at, found.width)):
            if column >= 0:
                cells[column] = _cell("unknown", ascii_only)
    for kind in reversed(_PRIORITY):
        for mark in attempt.marks:
            column = found.column(mark.at)
            if mark.kind == kind and 0 <= column < found.width:
                cells[column] = _cell(kind, ascii_only)
    if attempt.live and 0 <= live_at < found.width:
        cells[live_at] = _cell("live", ascii_only)
    return cells


def _draw(
    cells: list[Cell], found: Scale, start: float, end: float, state: str, attempt: Attempt, ascii_only: bool
) -> None:
    """A stretch gets every column it touches; the next one overwrites the column that both touch only when it is
    longer than a column, so that short repeats and restores are seen."""
    first, last = found.column(start), found.column(end)
    cell = _cell(state, ascii_only)
    durable = max((mark.at for mark in attempt.marks if mark.kind == "durable"), default=start)
    for column in range(max(0, first), min(last, found.width - 1) + 1):
        taken = cells[column].role in ("restore", "repeat") and column == first and last > first
        if taken:
            continue
        at = found.start + column * found.column_s
        lost = attempt.end in LOST_REASONS and state in ("train", "repeat") and at > durable
        cells[column] = Cell(cell.glyph, "lost") if lost else cell


def _cell(kind: str, ascii_only: bool) -> Cell:
    unicode_glyph, ascii_glyph, role = GLYPHS[kind]
    return Cell(ascii_glyph if ascii_only else unicode_glyph, role)
