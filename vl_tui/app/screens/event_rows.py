"""The newest events of every run as rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from vl_agent.protocol import Event

from vl_tui.app import words
from vl_tui.app.draw import Piece, Row, pad, row, rule
from vl_tui.app.events import told
from vl_tui.app.facts import Facts

WIDE = 120


def event_rows(facts: Facts, width: int, room: int) -> list[Row]:
    """A title and what fits into ``room`` rows with it, the newest first; nothing where there is none."""
    found = [(event, run.name) for run in facts.runs for event in run.timeline.recent]
    if room < 2 or not found:
        return []
    newest = _merged(sorted(found, key=lambda item: item[0].t, reverse=True))[: room - 1]
    names = min(19, max(len(name) for _, name, _ in newest))
    lines = []
    for event, name, more in newest:
        glyph, role, text = told(event)
        at = words.minute(event.t) if width < WIDE else words.clock(event.t)
        count = Piece(f" · newest of {more + 1}", "dim") if more else Piece("")
        what = Piece(text, "dim" if role == "dim" else "text")
        head = (Piece(f" {at} ", "faint"), Piece(f"{glyph} ", role), Piece(pad(name, names) + "  ", "text"))
        lines.append(row(*head, what, count))
    return [rule("events", width), *lines]


def _merged(newest: Iterable[tuple[Event, str]]) -> list[tuple[Event, str, int]]:
    """Saves of a run with nothing else of that run between them are one line: the newest, and how many it stands for
    beside itself."""
    found: list[tuple[Event, str, int]] = []
    saves: dict[str, int] = {}
    for event, name in newest:
        if event.kind == "durable" and name in saves:
            first, _, more = found[saves[name]]
            found[saves[name]] = (first, name, more + 1)
            continue
        saves.pop(name, None)
        if event.kind == "durable":
            saves[name] = len(found)
        found.append((event, name, 0))
    return found
