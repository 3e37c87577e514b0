"""A run's timeline as rows: the scale, one lane an attempt, the sums, what the glyphs mean. Pure."""

from __future__ import annotations

from vl_tui.app import words
from vl_tui.app.draw import Piece, Row, cut, pad, row
from vl_tui.app.facts import RunFacts
from vl_tui.domain import lanes
from vl_tui.domain.timeline import Attempt

LABEL = 20
SUMS = 28
"""Cells of the sums at the right where there is room: steps, lost, wall, $."""
WIDE = 120
HEARD = ("alive", "link_only", "at_risk")
"""Verdicts that mean: the controller hears the box."""
LEGEND = (
    ("train", "train"), ("repeat", "repeat"), ("durable", "durable"), ("saved", "saved"), ("notice", "notice"),
    ("lost", "lost"), ("provision", "provision"), ("restore", "restore"), ("migrated", "migrate"),
    ("escalated", "escalate"), ("unknown", "not heard"),
)  # fmt: skip


def lane_rows(run: RunFacts, now: float, width: int, most: int) -> list[Row]:
    """At most ``most`` lanes: the newest; older ones fold into one line of words."""
    line = run.timeline
    sums = SUMS if width >= WIDE else 0
    until = now if run.live else max((a.ended_at or 0.0 for a in line.attempts), default=now)
    attempts = [*line.attempts, *line.provisioning]
    folded = len(attempts) - most + 1 if len(attempts) > most else 0
    scale = lanes.scale(attempts[folded:], until, width - LABEL - sums - 1)
    guides = lanes.guides(scale, words.local_offset_s())
    digits = max((len(_number(attempt)) for attempt in attempts[folded:]), default=1)
    found = [_title(scale, guides, sums)]
    if folded:
        found.append(_folded(attempts[:folded]))
    ruled = [column for column, _ in guides]
    heard = run.view_at if run.text("verdict") in HEARD else None
    for attempt in attempts[folded:]:
        newest = run.live and attempt is attempts[-1]
        holds = attempt.launch == run.head.launch
        cells = lanes.lane(attempt, scale, until, heard=heard if holds else None, ruled=ruled)
        label = _label(attempt, digits, newest=newest)
        found.append(_lane(attempt, label, cells, until, sums))
    return [*found, _summary(run, scale)]


def legend(width: int) -> Row:
    """What the glyphs mean, as far as there is room."""
    pieces = []
    for index, (kind, word) in enumerate(LEGEND):
        glyph, _, role = lanes.GLYPHS[kind]
        drop = index + 1
        pieces += [Piece(f" {glyph}", role, drop=drop), Piece(f" {word} ", "dim", drop=drop)]
    return row(*pieces)


def _title(scale: lanes.Scale, guides: list[tuple[int, str]], sums: int) -> Row:
    text = [" "] * scale.width
    for column, label in guides:
        if all(char == " " for char in text[max(0, column - 1) : column + len(label) + 1]):
            text[column : column + len(label)] = label
    right = Piece(f"{'steps':>8}{'lost':>6}{'wall':>6}{'$':>7} ", "dim")
    pieces = [Piece(pad(" timeline", LABEL), "text", True), Piece("".join(text[: scale.width]), "faint")]
    return row(*pieces, right=(right,) if sums else ())


def _folded(older: list[Attempt]) -> Row:
    lost = sum(attempt.lost or 0 for attempt in older)
    many = "attempt" if len(older) == 1 else "attempts"
    return row(Piece(f"  {len(older)} older {many} · {words.steps(lost)} lost", "dim"))


def _number(attempt: Attempt) -> str:
    return cut(str(attempt.epoch), 6) if attempt.epoch else "·"


def _label(attempt: Attempt, digits: int, *, newest: bool) -> list[Piece]:
    """``LABEL`` cells."""
    number = f"{'▸' if newest else ' '}{_number(attempt):>{digits}} "
    return [
        Piece(number, "bright" if newest else "text", newest),
        Piece(pad(attempt.provider, 7) + " ", "text" if newest else "dim"),
        Piece(pad(attempt.place, LABEL - 11 - digits) + " ", "faint"),
    ]


def _lane(attempt: Attempt, label: list[Piece], cells: list[lanes.Cell], now: float, sums: int) -> Row:
    drawn: list[Piece] = []
    for cell in cells:
        if drawn and drawn[-1].role == cell.role:
            drawn[-1] = Piece(drawn[-1].text + cell.glyph, cell.role)
        else:
            drawn.append(Piece(cell.glyph, cell.role))
    wall = attempt.seconds(now)
    right = (
        Piece(pad(words.count(attempt.steps), 8, right=True), "text"),
        Piece(pad(words.count(attempt.lost), 6, right=True), "lost" if attempt.lost else "dim"),
        Piece(pad(words.age(wall), 6, right=True), "text"),
        Piece(pad(words.usd(attempt.usd_hour * wall / 3600), 7, right=True) + " ", "text"),
    )
    return row(*label, *drawn, right=right if sums else ())


def _summary(run: RunFacts, scale: lanes.Scale) -> Row:
    line = run.timeline
    pieces: list[Piece] = []

    def add(text: str, role: str) -> None:
        drop = len(pieces) // 2
        pieces.append(Piece(" " if not pieces else " · ", "faint", drop=drop))
        pieces.append(Piece(text, role, drop=drop))

    if line.mismatched:
        add(f"✗ {words.count(line.mismatched)} repeated steps DIFFER", "lost")
    lost = sum(line.counts.get(end, 0) for end in ("lost", "preempted", "notice"))
    if lost:
        add(f"{lost} {'box' if lost == 1 else 'boxes'} lost", "lost")
    if line.counts.get("migrated"):
        add(f"{line.counts['migrated']} migrated", "migrate")
    if line.counts.get("escalated"):
        add(f"{line.counts['escalated']} escalated", "escalate")
    if line.repeated or line.verified:
        add(f"{words.steps(max(line.repeated, line.verified))} repeated", "text")
    if line.verified and not line.mismatched:
        add("✓ all verified" if line.verified >= line.repeated else f"✓ {line.verified:,} verified", "durable")
    if not pieces:
        add("nothing lost so far", "dim")
    return row(*pieces, right=(Piece(f"column {scale.words} ", "faint"),))
