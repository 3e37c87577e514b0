"""Rows of pieces, and how they become lines on the screen.

A screen is a pure function from facts to rows; this turns rows into strips. The last gate is here: whatever text came
into a piece, it leaves through ``clean``, before anything is measured, and no control character reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from vl_tui.app.theme import Look
from vl_tui.domain.lanes import GLYPHS
from vl_tui.domain.safe import clean

_FURNITURE = {
    "─": "-", "│": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "┃": "|", "►": ">", "▸": ">", "→": ">", "›": ">",
    "↑": "^", "↓": "v", "…": "~", "–": "-", "−": "-", "·": "-",
}  # fmt: skip
_ASCII = {glyph: plain for glyph, plain, _ in GLYPHS.values()} | _FURNITURE
"""For terminals whose font or locale has only ASCII: one cell for one cell."""


@dataclass(frozen=True)
class Piece:
    text: str
    role: str = "text"
    bold: bool = False
    drop: int = 0
    """0: always shown; else pieces with the highest number are left out first when the row is too long."""


@dataclass(frozen=True)
class Row:
    """One line: pieces from the left, pieces at the right edge, a background."""

    left: tuple[Piece, ...] = ()
    right: tuple[Piece, ...] = ()
    on: str = ""
    """Role of the background: bar, select or none."""


def row(*left: Piece, right: Sequence[Piece] = (), on: str = "") -> Row:
    return Row(tuple(left), tuple(right), on)


def rule(title: str, width: int, *, right: str = "") -> Row:
    """A titled line between two parts of a screen: one row, where a border would cost two."""
    title, end = clean(title), f" {clean(right)} " if right else ""
    title = cut(title, max(1, width - cell_len(end) - 6))
    dashes = max(0, width - cell_len(title) - cell_len(end) - 3)
    line = Piece(" " + "─" * dashes, "line")
    return row(Piece("─ ", "line"), Piece(title, "text", bold=True), line, Piece(end, "faint"))


def fit(found: Row, width: int) -> list[Piece]:
    """The pieces that fit, the gap between left and right filled; exactly ``width`` cells in all."""
    left, right = [_cleaned(piece) for piece in found.left], [_cleaned(piece) for piece in found.right]
    while _cells(left) + _cells(right) + (1 if right else 0) > width and any(p.drop for p in (*left, *right)):
        worst = max(piece.drop for piece in (*left, *right))
        left = [piece for piece in left if piece.drop != worst]
        right = [piece for piece in right if piece.drop != worst]
    right = _first_cells(right, width)
    gap = 1 if right else 0
    left = _first_cells(left, max(0, width - _cells(right) - gap))
    space = width - _cells(left) - _cells(right)
    return [piece for piece in (*left, Piece(" " * space), *right) if piece.text]


def _first_cells(pieces: Sequence[Piece], width: int) -> list[Piece]:
    """As many pieces as fit, the last of them cut."""
    kept = []
    for piece in pieces:
        text = cut(piece.text, width)
        width -= cell_len(text)
        kept.append(piece if text is piece.text else replace(piece, text=text))
    return kept


def _cells(pieces: Sequence[Piece]) -> int:
    return sum(cell_len(piece.text) for piece in pieces)


def _cleaned(piece: Piece) -> Piece:
    text = clean(piece.text)
    return piece if text == piece.text else replace(piece, text=text)


def cut(text: str, width: int) -> str:
    """At most ``width`` cells, with an ellipsis where something is left out."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…" if width > 1 else set_cell_size(text, width)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Exactly ``width`` cells of clean text: cut, or filled (``right``: aligned to the right, for numbers)."""
    text = cut(clean(text), width)
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def wrap(text: str, width: int, most: int) -> list[str]:
    """``text`` as at most ``most`` lines of at most ``width`` cells, broken between words where that is possible."""
    lines: list[str] = []
    line = ""
    for word in clean(text).split():
        joined = f"{line} {word}" if line else word
        if line and cell_len(joined) > width:
            lines.append(line)
            joined = word
        while cell_len(joined) > width and len(lines) < most:
            lines.append(set_cell_size(joined, width))
            joined = joined[len(lines[-1].rstrip()) :]
        line = joined
    lines.append(line)
    if len(lines) > most:
        rest = " ".join(lines[most - 1 :])
        lines = [*lines[: most - 1], cut(rest, width) if cell_len(rest) > width else cut(rest + " …", width)]
    return [line for line in lines if line]


def strip(found: Row, width: int, look: Look, base: Style) -> Strip:
    """The row as a line of exactly ``width`` cells."""
    segments = []
    for piece in fit(found, width):
        text = piece.text if not look.ascii or piece.text.isascii() else ascii_of(piece.text)
        segments.append(Segment(text, base + look.style(piece.role, bold=piece.bold, on=found.on)))
    return Strip(segments).adjust_cell_length(width, base + look.style("text", on=found.on))


def ascii_of(text: str) -> str:
    """``text`` in as many cells of ASCII; a character without a likeness is a question mark."""
    return "".join(char if char.isascii() else _ASCII.get(char, "?" * cell_len(char)) for char in text)
