"""Rows of pieces, and how they become lines on the screen.

A screen is a pure function from facts to rows; this turns rows into strips. The last gate is here: whatever text came
into a piece, it leaves through ``clean``, and no control character reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from vl_tui.app.theme import Look
from vl_tui.domain.safe import clean


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
    end = f" {right} " if right else ""
    dashes = max(0, width - cell_len(title) - cell_len(end) - 4)
    line = Piece(" " + "─" * dashes, "line")
    return row(Piece("─ ", "line"), Piece(title, "text", bold=True), line, Piece(end, "faint"))


def fit(found: Row, width: int) -> list[Piece]:
    """The pieces that fit, the gap between left and right filled; exactly ``width`` cells in all."""
    left, right = list(found.left), list(found.right)

    def total() -> int:
        return sum(cell_len(piece.text) for piece in (*left, *right)) + (1 if right else 0)

    while total() > width and any(piece.drop for piece in (*left, *right)):
        worst = max(piece.drop for piece in (*left, *right))
        left = [piece for piece in left if piece.drop != worst]
        right = [piece for piece in right if piece.drop != worst]
    used = sum(cell_len(piece.text) for piece in right)
    room = max(0, width - used)
    out: list[Piece] = []
    for piece in left:
        size = cell_len(piece.text)
        if size > room:
            piece = Piece(cut(piece.text, room), piece.role, piece.bold)
            size = room
        out.append(piece)
        room -= size
    if room:
        out.append(Piece(" " * room, "text"))
    return [piece for piece in (*out, *right) if piece.text]


def cut(text: str, width: int) -> str:
    """At most ``width`` cells, with an ellipsis where something is left out."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…" if width > 1 else set_cell_size(text, width)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Exactly ``width`` cells: cut, or filled (``right``: aligned to the right, for numbers)."""
    text = cut(text, width)
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def strip(found: Row, width: int, look: Look, base: Style) -> Strip:
    """The row as a line of exactly ``width`` cells."""
    segments = []
    for piece in fit(found, width):
        text = piece.text if piece.text.isascii() and piece.text.isprintable() else clean(piece.text)
        segments.append(Segment(text, base + look.style(piece.role, bold=piece.bold, on=found.on)))
    return Strip(segments).adjust_cell_length(width, base + look.style("text", on=found.on))
