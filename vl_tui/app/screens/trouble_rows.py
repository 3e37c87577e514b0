"""What a person must know before all else, on every screen: how old the facts are, and what does not answer. Pure."""

from __future__ import annotations

from dataclasses import replace

from vl_tui.app import words
from vl_tui.app.draw import Piece, Row, row, wrap
from vl_tui.app.facts import Facts

ALERT_S = 600.0
"""The controller's alerts are shown for so long."""


def age_pieces(facts: Facts, now: float) -> tuple[Piece, ...]:
    """``live`` or how old the facts are, and the time: for the right end of a header."""
    clock = Piece(words.clock(now) + " ", "dim", drop=1)
    if facts.first:
        return Piece("reads ", "dim"), clock
    if facts.stale(now):
        return Piece(f"{words.age(now - facts.read_at)} old ", "notice", True), clock
    return Piece("live ", "durable"), clock


def trouble_rows(facts: Facts, now: float, width: int, most: int) -> list[Row]:
    """At most ``most`` rows, the worst first; none when all is well."""
    found: list[Row] = []
    for title, why in _troubles(facts, now):
        found += [row(Piece(f" ▲ {line}" if not index else f"   {line}", "notice", True))
                  for index, line in enumerate(wrap(title, width - 4, 2))]  # fmt: skip
        found += [row(Piece(f"   {line}", "dim")) for line in wrap(why, width - 4, 2)]
    return found[:most]


def _troubles(facts: Facts, now: float) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if facts.store_error:
        since = words.age(now - facts.failing_since)
        found.append((f"no word from the store for {since}: boxes keep saving, nothing is killed", facts.store_error))
    elif not facts.first and facts.stale(now):
        found.append((f"the store answers slowly: what is shown is {words.age(now - facts.read_at)} old", ""))
    if facts.controller_error:
        found.append(("no controller keeps the runs, and none could be started", facts.controller_error))
    elif facts.silent(now):
        since = words.age(now - facts.view_at)
        found.append((f"no word from the controller for {since}: boxes, spending and offers are that old", ""))
    found += [(f"{name} can't be read: {why}", "") for name, why in sorted(facts.unreadable.items())]
    found += [(text, "") for at, text in reversed(facts.alerts) if now - at < ALERT_S]
    return found


def aged(rows: list[Row], facts: Facts, now: float) -> list[Row]:
    """Rows of figures: dim where the facts are old."""
    if facts.first or not facts.stale(now):
        return rows
    return [replace(one, left=_dim(one.left), right=_dim(one.right)) for one in rows]


def _dim(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    return tuple(replace(p, role="dim", bold=False) if p.role in ("text", "bright") else p for p in pieces)
