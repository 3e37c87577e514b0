"""A table as rows: columns that stand under their titles, and leave together with them where there is no room. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vl_tui.app.draw import Piece, pad


@dataclass(frozen=True)
class Column:
    """``width`` cells and one more before it. ``drop``: 0 stays; else the highest goes first."""

    title: str
    width: int
    right: bool = False
    drop: int = 0
    flex: int = 0
    """At most so wide where the row has room to spare; 0: always ``width``."""


def choose(columns: Sequence[Column], room: int) -> dict[str, int]:
    """The columns that fit into ``room`` cells, by title, and how wide each becomes."""
    chosen = list(columns)
    while _cells(chosen) > room and any(column.drop for column in chosen):
        chosen.remove(max(chosen, key=lambda column: column.drop))
    spare = room - _cells(chosen)
    widths = {}
    for column in chosen:
        more = min(max(0, spare), max(0, column.flex - column.width))
        spare -= more
        widths[column.title] = column.width + more
    return widths


def titles(columns: Sequence[Column], widths: dict[str, int]) -> Piece:
    names = (" " + pad(one.title, widths[one.title], right=one.right) for one in columns if one.title in widths)
    return Piece("".join(names), "dim")


def cells(columns: Sequence[Column], widths: dict[str, int], values: dict[str, Piece]) -> list[Piece]:
    """A row's pieces, each at its column's width."""
    found = []
    for column in columns:
        if column.title in widths:
            value = values[column.title]
            text = " " + pad(value.text, widths[column.title], right=column.right)
            found.append(Piece(text, value.role, value.bold))
    return found


def _cells(columns: Sequence[Column]) -> int:
    return sum(column.width + 1 for column in columns)
