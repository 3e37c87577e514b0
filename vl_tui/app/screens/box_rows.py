"""The boxes as rows: every machine that costs money now, what it does and how its link is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vl_tui.app import state, words
from vl_tui.app.draw import Piece, Row, row, rule
from vl_tui.app.facts import Facts, RunFacts, number, text
from vl_tui.app.screens.table import Column, cells, choose

COLUMNS = (
    Column("does", 10), Column("where", 14, flex=24), Column("market", 9), Column("$/h", 7, right=True),
    Column("run", 12, flex=24), Column("box", 6), Column("link", 10, drop=1, flex=80),
)  # fmt: skip
_PHASES: Mapping[str, state.Word] = {
    "preparing": state.PROVISIONING, "prepared": state.READY, "restoring": state.RESTORING,
    "training": state.TRAINING, "draining": state.SAVING,
}  # fmt: skip


def box_rows(facts: Facts, width: int, most: int) -> list[Row]:
    """A title and at most ``most`` rows; nothing where there is no box. Those that cost most stand first."""
    found = [(run, box) for run in facts.runs for box in run.boxes]
    if not found or most < 1:
        return []
    found.sort(key=lambda item: (bool(item[1].get("given_up")), -number(item[1], "usd_hour"), item[0].name))
    widths = choose(COLUMNS, width - 4)
    counted = len(found) > most > 2
    shown = found[: most - 1] if counted else found[:most]
    lines = [_box(run, box, widths) for run, box in shown]
    if counted:
        lines.append(row(Piece(f"     {len(found) - len(shown)} more", "faint")))
    rate = sum(number(box, "usd_hour") for _, box in found if not box.get("given_up"))
    return [rule(f"boxes {len(found)}", width, right=f"{words.usd(rate)}/h"), *lines]


def _box(run: RunFacts, box: Mapping[str, Any], widths: dict[str, int]) -> Row:
    word = _does(run, box)
    values = {
        "does": Piece(word.text, word.role, True),
        "where": Piece(f"{text(box, 'provider')} {text(box, 'place')}", "text"),
        "market": Piece(text(box, "market").replace("_", "-"), "dim"),
        "$/h": Piece(words.usd(number(box, "usd_hour")), "text"),
        "run": Piece(run.name, "text"),
        "box": Piece(f"box {number(box, 'launch'):.0f}", "dim"),
        "link": _link(box),
    }
    return row(Piece(f"   {word.glyph}", word.role), *cells(COLUMNS, widths, values))


def _does(run: RunFacts, box: Mapping[str, Any]) -> state.Word:
    if box.get("given_up"):
        return state.Word("·", "given up", "dim")
    if number(box, "launch") == run.head.launch and run.live:
        return state.word(run)
    return _PHASES.get(text(box, "phase"), state.Word("┄", "boots", "prov"))


def _link(box: Mapping[str, Any]) -> Piece:
    """How the controller talks to it; for one that is given up, why it is."""
    if box.get("given_up"):
        return Piece(text(box, "given_up").replace("_", " "), "dim")
    link, detail = text(box, "link") if isinstance(box.get("ssh"), dict) else "", text(box, "detail")
    told = f"{link} · {detail}" if link and detail else link or detail or "–"
    return Piece(told, "dim" if link in ("attached", "connecting", "installing", "") else "notice")
