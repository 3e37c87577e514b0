"""The frame that only dialogs have, and the row of their keys. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from vl_tui.app.draw import Piece, Row, fit, row


def framed(body: Sequence[Row], width: int) -> list[Row]:
    """Rows inside a frame, each exactly ``width`` cells."""
    top = row(Piece("╭" + "─" * (width - 2) + "╮", "key"))
    bottom = row(Piece("╰" + "─" * (width - 2) + "╯", "key"))
    lines = [Row((Piece("│ ", "key"), *fit(line, width - 4), Piece(" │", "key")), (), line.on) for line in body]
    return [top, *lines, bottom]


def keys_row(keys: Sequence[tuple[str, str]]) -> Row:
    """What each key does; the first and the last are always told."""
    pieces = []
    for index, (key, does) in enumerate(keys):
        drop = 1 if 0 < index < len(keys) - 1 else 0
        space = "   " if index < len(keys) - 1 else ""
        pieces += [Piece(key, "key", True, drop), Piece(f" {does}{space}", "text", False, drop)]
    return row(*pieces)
