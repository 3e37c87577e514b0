"""A timeline as cells of a screen: one lane an attempt, columns of time, one glyph with one meaning. Pure.

All state glyphs are lines on one axis, events sit on the line. A column is of the ladder's width and aligned to the
clock, so that nothing shimmers as time moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from vl_tui.domain.timeline import LOST_REASONS, Attempt

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
"""State or event: glyph, its likeness in ASCII, role. One glyph, one meaning."""
QUIET_S = 15.0
"""Silence of a live attempt that is nothing unusual: its journal comes in pieces."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
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


def scale(attempts: Iterable[Attempt], now: float, width: int) -> Scale:
    """The finest scale of the ladder on which all of these fit into ``width`` columns."""
    began = [attempt.began_at for attempt in attempts if attempt.began_at is not None]
    start = min([now, *began])
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
        column, label = found.column(at - offset_s), _clock(at, every)
        if column + len(label) > found.width:
            return labels
        labels.append((column, label))
        at += every


def _clock(local: float, every: int) -> str:
    """The moment as a label; at midnight the date."""
    moment = _EPOCH + timedelta(seconds=int(local))
    if every >= 86400 or int(local) % 86400 == 0:
        return f"{moment:%d %b}"
    return f"{moment:%H:%M:%S}" if every < 60 else f"{moment:%H:%M}"


def lane(
    attempt: Attempt, found: Scale, now: float, *, heard: float | None = None, ruled: Sequence[int] = ()
) -> list[Cell]:
    """One attempt as exactly ``found.width`` cells. ``heard``: the last word of or about its box, where that is newer
    than its journal's; since then nobody knows what a live one does."""
    cells = [BLANK] * found.width
    for column in ruled:
        if 0 <= column < found.width and found.start + column * found.column_s < now:
            cells[column] = _cell("guide")
    known = _known_until(attempt, heard, now)
    for segment in attempt.segments(now):
        end = segment.end if segment.end is not None else max(segment.start, known)
        _draw(cells, found, segment.start, end, segment.state, attempt)
    live_at = found.column(now)
    if known < now:
        for column in range(max(0, found.column(known) + 1), min(live_at, found.width)):
            cells[column] = _cell("unknown")
    for kind in reversed(_PRIORITY):
        for mark in attempt.marks:
            column = found.column(mark.at)
            if mark.kind == kind and 0 <= column < found.width:
                cells[column] = _cell(kind)
    if attempt.live and 0 <= live_at < found.width:
        cells[live_at] = _cell("live")
    return cells


def _known_until(attempt: Attempt, heard: float | None, now: float) -> float:
    """Until when it is known what a live attempt did: to now, unless nothing was heard for longer than is usual."""
    if not attempt.live or attempt.heard_at is None:
        return now
    last = max(attempt.heard_at, heard or 0.0)
    return now if now - last <= QUIET_S else min(last, now)


def _draw(cells: list[Cell], found: Scale, start: float, end: float, state: str, attempt: Attempt) -> None:
    """A stretch gets every column it touches; the next one overwrites the column that both touch only when it is
    longer than a column, so that short repeats and restores are seen."""
    first, last = found.column(start), found.column(end)
    cell = _cell(state)
    durable = max((mark.at for mark in attempt.marks if mark.kind == "durable"), default=start)
    for column in range(max(0, first), min(last, found.width - 1) + 1):
        taken = cells[column].role in ("restore", "repeat") and column == first and last > first
        if taken:
            continue
        at = found.start + column * found.column_s
        lost = attempt.end in LOST_REASONS and state in ("train", "repeat") and at > durable
        cells[column] = Cell(cell.glyph, "lost") if lost else cell


def _cell(kind: str) -> Cell:
    glyph, _, role = GLYPHS[kind]
    return Cell(glyph, role)
