"""The Fleet screen as rows: every run, every box, what it costs, what happened. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vl_tui.app import state, words
from vl_tui.app.draw import Piece, Row, row, rule
from vl_tui.app.facts import Facts, RunFacts
from vl_tui.app.screens.box_rows import box_rows
from vl_tui.app.screens.event_rows import event_rows
from vl_tui.app.screens.lane_rows import lane_rows
from vl_tui.app.screens.table import Column, cells, choose, titles
from vl_tui.app.screens.trouble_rows import age_pieces, aged, trouble_rows

TALL = 30
WIDE = 120
KEYS = (("enter", "open"), ("m", "migrate"), ("e", "escalate"), ("s", "stop"), ("/", "filter"))
COLUMNS = (
    Column("state", 10), Column("run", 12, flex=24), Column("where", 15, drop=6, flex=22),
    Column("market", 9, drop=9), Column("progress", 25, drop=10), Column("done", 5, right=True, drop=7),
    Column("loss", 8, right=True, drop=11), Column("durable", 7, right=True), Column("at risk", 8, right=True, drop=8),
    Column("$/h", 6, right=True), Column("spent", 8, right=True, drop=12), Column("finish", 7, right=True),
)  # fmt: skip


@dataclass(frozen=True)
class FleetState:
    """What a person did on this screen."""

    cursor: str = ""
    """Name of the run under the cursor; empty: the first."""
    filter: str = ""
    typing: bool = False
    status: str = ""


def shown(facts: Facts, found: FleetState) -> list[RunFacts]:
    """The runs that pass the filter: live ones first, then by name. ``!word`` leaves out what has the word."""
    text = found.filter.lower()
    wanted = [run for run in facts.runs if _passes(run, text)]
    return sorted(wanted, key=lambda run: (not run.live, run.name))


def _passes(run: RunFacts, text: str) -> bool:
    if text in ("", "!"):
        return True
    words_of = f"{run.name} {state.word(run).text} {where(run)} {market(run)}".lower()
    return text[1:] not in words_of if text.startswith("!") else text in words_of


def current(facts: Facts, found: FleetState) -> RunFacts | None:
    runs = shown(facts, found)
    return next((run for run in runs if run.name == found.cursor), runs[0] if runs else None)


def rows(facts: Facts, found: FleetState, width: int, height: int, now: float) -> list[Row]:
    """Exactly ``height`` rows."""
    runs, here = shown(facts, found), current(facts, found)
    tall = height >= TALL
    trouble = trouble_rows(facts, now, width, 6 if tall else 3)
    top = [*_header(facts, now), *trouble]
    top.append(_filter(facts, found, runs) if found.filter and not found.typing else Row())
    room = height - len(top) - 1
    if runs:
        widths = choose(COLUMNS, width - 5)
        head = row(Piece("    "), titles(COLUMNS, widths))
        lines = [_run(run, run is here, now, widths) for run in runs]
        body = [head, *_window(lines, runs.index(here) if here else 0, max(2, room // 2 - (2 if tall else 1)))]
    else:
        body = [row(Piece(f"   {line}", "dim")) for line in _nothing(facts, found)]
    body = aged(body, facts, now)
    gap = [Row()] if tall else []
    if width >= WIDE and here is not None and tall:
        lanes = lane_rows(here, now, width, 6)
        body += [*gap, rule(here.name, width, right="enter opens"), *lanes]
    boxes = box_rows(facts, width, 8 if tall else max(1, (room - len(body)) // 3 - 1))
    body += [*gap, *boxes] if boxes else []
    body += [*gap, *event_rows(facts, width, room - len(body) - len(gap))]
    body = body[:room] + [Row()] * (room - len(body))
    return [*top, *body, _footer(found)]


def _header(facts: Facts, now: float) -> list[Row]:
    right = age_pieces(facts, now)
    if facts.first:
        return [row(Piece(" fleet", "bright", True), right=right, on="bar"), Row()]
    by_word: dict[str, tuple[int, str]] = {}
    for run in facts.runs:
        word = state.word(run)
        seen, _ = by_word.get(word.text, (0, ""))
        by_word[word.text] = (seen + 1, word.role)
    pieces = [Piece(" fleet   ", "bright", True), Piece(f"{len(facts.runs)} run{'s' * (len(facts.runs) != 1)}", "text")]
    urgent = sorted(by_word.items(), key=lambda item: (item[1][1] not in ("lost", "notice"), -item[1][0]))
    for index, (text, (seen, role)) in enumerate(urgent):
        pieces += [Piece(" · ", "faint", drop=index + 2), Piece(f"{seen} {text}", role, drop=index + 2)]
    rate = sum(run.number("usd_hour") or 0.0 for run in facts.runs)
    spent = sum(run.number("spent_usd") or 0.0 for run in facts.runs)
    risk = sum(at_risk(run) or 0 for run in facts.runs if run.live)
    missing = facts.controller == "none" and any(run.live for run in facts.runs)
    second = row(
        Piece(f" {words.usd(rate)}/h", "bright", True), Piece("  spent ", "dim"), Piece(words.usd(spent), "text"),
        Piece("   at risk now ", "dim", drop=2), Piece(words.steps(risk), "text", drop=2),
        right=(Piece("controller: ", "dim", drop=1),
               Piece(f"{facts.controller} ", "notice" if missing else "dim", drop=1)),
    )  # fmt: skip
    return [row(*pieces, right=right, on="bar"), *aged([second], facts, now)]


def _filter(facts: Facts, found: FleetState, runs: Sequence[RunFacts]) -> Row:
    told = f"{len(runs)} of {len(facts.runs)} run{'s' * (len(facts.runs) != 1)} · esc shows all"
    return row(Piece(" /", "key", True), Piece(found.filter, "bright"), Piece(f"   {told}", "notice"))


def _nothing(facts: Facts, found: FleetState) -> list[str]:
    if facts.first:
        return ["nothing was read yet"] if facts.store_error else ["reads the store …"]
    if found.filter:
        return [f"no run matches {found.filter}"]
    if facts.unreadable:
        return ["no run that can be read"]
    return ["Nothing runs yet.", "vl-tui submit run.yaml   begins a run", "vl-tui demo              shows one, here"]


def _run(run: RunFacts, here: bool, now: float, widths: dict[str, int]) -> Row:
    word, line = state.word(run), run.timeline
    durable = None if line.durable_at is None else now - line.durable_at
    finish = finish_at(run, now)
    share = done(run)
    progress = f"{words.count(line.step)}/{words.count(line.total)}" if line.total else words.count(line.step)
    values = {
        "state": Piece(word.text, word.role, True),
        "run": Piece(run.name, "bright", here),
        "where": Piece(where(run), "dim"),
        "market": Piece(market(run), "dim"),
        "progress": Piece(f"{_bar(share)} {progress}", word.role),
        "done": Piece("–" if share is None else f"{share:.0%}", "text"),
        "loss": Piece(words.loss(line.loss), "text"),
        "durable": Piece(words.age(durable), durable_role(run, durable)) if run.live else Piece("final", "dim"),
        "at risk": Piece(words.count(at_risk(run)) if run.live else "–", "text"),
        "$/h": Piece(words.usd(run.number("usd_hour") if run.live else 0.0), "text"),
        "spent": Piece(words.usd(run.number("spent_usd")), "text"),
        "finish": Piece("–" if finish is None else words.when(finish, now), late_role(run, finish)),
    }
    mark = Piece(" ▸ " if here else "   ", "bright")
    return row(mark, Piece(word.glyph, word.role), *cells(COLUMNS, widths, values), on="select" if here else "")


def finish_at(run: RunFacts, now: float) -> float | None:
    """Unix seconds at which it ends if nothing happens: steps left by the pace of its last steps. None where it does
    not train, or its steps are not known."""
    line = run.timeline
    if run.head.state != "running" or run.text("verdict") == "lost":
        return None
    if line.total is None or line.step is None or not line.steps_per_s:
        return None
    return now + max(0, line.total - line.step) / line.steps_per_s


def late_role(run: RunFacts, finish: float | None) -> str:
    due = run.spec.deadline if run.spec else None
    return "lost" if finish is not None and due is not None and finish > due else "text"


def done(run: RunFacts) -> float | None:
    """The share of its steps that is done, 0..1."""
    line = run.timeline
    return min(1.0, max(0.0, line.step / line.total)) if line.total and line.step is not None else None


def _bar(share: float | None) -> str:
    full = round(10 * (share or 0.0))
    return "━" * full + "┄" * (10 - full)


def at_risk(run: RunFacts) -> int | None:
    """Steps that would be done again if the box died now."""
    line = run.timeline
    return None if line.step is None else max(0, line.step - (line.durable_step or 0))


def durable_role(run: RunFacts, durable_age: float | None) -> str:
    """Green while the newest checkpoint is no older than three of its intervals, or a quarter of an hour."""
    every = run.spec.checkpoints.every_s if run.spec else None
    return "durable" if durable_age is not None and durable_age < max(900.0, 3 * (every or 0.0)) else "notice"


def where(run: RunFacts) -> str:
    """Provider and place of its box, or of its last one."""
    provider, place = _part(run, "provider"), _part(run, "place")
    return f"{provider} {place}".strip() or "–"


def market(run: RunFacts) -> str:
    return _part(run, "market").replace("_", "-") or "–"


def _part(run: RunFacts, name: str) -> str:
    live = [box for box in run.boxes if not box.get("given_up")]
    if live:
        return str(next((one for one in live if one.get("launch") == run.head.launch), live[-1]).get(name) or "")
    return str(getattr(run.timeline.attempts[-1], name)) if run.timeline.attempts else ""


def _window(lines: Sequence[Row], at: int, most: int) -> list[Row]:
    """As many lines as there is room for, the one under the cursor among them; the rest is counted."""
    if len(lines) <= most:
        return list(lines)
    room = max(1, most - 1)
    first = min(max(0, at - room // 2), len(lines) - room)
    below = len(lines) - first - room
    told = " · ".join([f"{first} above"] * (first > 0) + [f"{below} below"] * (below > 0))
    return [*lines[first : first + room], row(Piece(f"     {told}", "faint"))]


def _footer(found: FleetState) -> Row:
    if found.typing:
        return row(Piece(" /", "key", True), Piece(found.filter, "bright"), Piece("▌", "bright"),
                   right=(Piece("enter keeps  esc clears ", "dim"),), on="bar")  # fmt: skip
    return footer(KEYS, found.status)


def footer(keys: Sequence[tuple[str, str]], status: str) -> Row:
    """The keys of a screen, or for a while what became of the last one."""
    right = (Piece("? help  q quit ", "dim"),)
    if status:
        return row(Piece(f" {status}", "notice"), right=right, on="bar")
    pieces = []
    for index, (key, text) in enumerate(keys):
        drop = 0 if index < 3 else index
        pieces += [Piece(f" {key}", "key", True, drop), Piece(f" {text} ", "text", False, drop)]
    return row(*pieces, right=right, on="bar")
