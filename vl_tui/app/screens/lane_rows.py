"""A run's timeline as rows: the scale, one lane an attempt, the sums. Pure."""

from __future__ import annotations

from vl_tui.app import words
from vl_tui.app.draw import Piece, Row, pad, row
from vl_tui.app.facts import RunFacts
from vl_tui.domain import lanes
from vl_tui.domain.timeline import Attempt

LABEL = 20
SUMS = 26
"""Cells of the sums at the right where there is room: steps, lost, wall, $."""


def lane_rows(run: RunFacts, now: float, width: int, most: int, ascii_only: bool) -> list[Row]:
    """At most ``most`` lanes: the newest; older ones fold into one line of words."""
    line = run.timeline
    sums = SUMS if width >= 120 else 0
    until = now if run.live else max((a.ended_at or 0.0 for a in line.attempts), default=now)
    scale = lanes.scale(line, until, width - LABEL - sums - 1)
    guides = lanes.guides(scale, words.local_offset_s())
    attempts = [*line.attempts, *line.provisioning]
    older = attempts[: max(0, len(attempts) - most)]
    shown = attempts[len(older) :]
    found = [_title(scale, guides, sums)]
    if older:
        lost = sum(attempt.lost or 0 for attempt in older)
        found.append(row(Piece(f"  1-{older[-1].epoch}  {len(older)} attempts, {lost:,} steps lost", "dim")))
        shown = shown[1:]
    ruled = [column for column, _ in guides]
    for attempt in shown:
        newest = run.live and attempt is attempts[-1]
        cells = lanes.lane(attempt, scale, until, ascii_only=ascii_only, ruled=ruled)
        found.append(_lane(attempt, cells, newest, until, sums, ascii_only))
    return [*found, _summary(run, scale)]


def _title(scale: lanes.Scale, guides: list[tuple[int, str]], sums: int) -> Row:
    text = [" "] * scale.width
    for column, label in guides:
        if all(char == " " for char in text[column : column + len(label) + 1]):
            text[column : column + len(label)] = label
    right = Piece(f"{'steps':>7}{'lost':>6}{'wall':>6}{'$':>6} ", "dim")
    pieces = [Piece(pad(" timeline", LABEL), "text", True), Piece("".join(text[: scale.width]), "faint")]
    return row(*pieces, right=(right,) if sums else ())


def _lane(attempt: Attempt, cells: list[lanes.Cell], newest: bool, now: float, sums: int, ascii_only: bool) -> Row:
    marker = (">" if ascii_only else "▸") if newest else " "
    number = str(attempt.epoch) if attempt.epoch else "·"
    pieces = [
        Piece(f"{marker}{number} ", "bright" if newest else "text", newest),
        Piece(pad(attempt.provider, 7) + " ", "text" if newest else "dim"),
        Piece(pad(attempt.place, LABEL - 10 - len(number)), "faint"),
    ]
    for cell in cells:
        if len(pieces) > 3 and pieces[-1].role == cell.role:
            pieces[-1] = Piece(pieces[-1].text + cell.glyph, cell.role)
        else:
            pieces.append(Piece(cell.glyph, cell.role))
    wall = attempt.seconds(now)
    right = (
        Piece(pad(words.count(attempt.steps), 7, right=True), "text"),
        Piece(pad(words.count(attempt.lost), 6, right=True), "lost" if attempt.lost else "dim"),
        Piece(pad(words.age(wall), 6, right=True), "text"),
        Piece(pad(words.usd(attempt.usd_hour * wall / 3600), 6, right=True) + " ", "text"),
    )
    return row(*pieces, right=right if sums else ())


def _summary(run: RunFacts, scale: lanes.Scale) -> Row:
    line = run.timeline
    pieces: list[Piece] = []

    def add(text: str, role: str) -> None:
        pieces.append(Piece(" " if not pieces else " · ", "faint"))
        pieces.append(Piece(text, role))

    lost = sum(line.counts.get(end, 0) for end in ("lost", "preempted", "notice"))
    if lost:
        add(f"{lost} preempted", "lost")
    if line.counts.get("migrated"):
        add(f"{line.counts['migrated']} migrated", "migrate")
    if line.counts.get("escalated"):
        add(f"{line.counts['escalated']} escalated", "escalate")
    if line.repeated:
        add(f"{line.repeated:,} steps repeated", "text")
    if line.mismatched:
        add(f"✗ {line.mismatched} repeated steps DIFFER", "lost")
    elif line.verified:
        add(f"✓ resume verified on {line.verified:,} repeated steps", "durable")
    if not pieces:
        add("nothing lost so far", "dim")
    return row(*pieces, right=(Piece(f"{scale.words} ", "faint"),))
