"""The Fleet screen as rows: every run, what it costs, what happened. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vl_tui.app import state, words
from vl_tui.app.draw import Piece, Row, pad, row, rule
from vl_tui.app.events import told
from vl_tui.app.facts import Facts, RunFacts
from vl_tui.app.screens.lane_rows import lane_rows

WIDE = 120
KEYS = (("⏎", "open"), ("m", "migrate"), ("e", "escalate"), ("s", "stop"), ("/", "filter"))


@dataclass(frozen=True)
class FleetState:
    """What a person did on this screen."""

    cursor: str = ""
    """Name of the run under the cursor; empty: the first."""
    filter: str = ""
    typing: bool = False
    status: str = ""
    ascii: bool = False


def shown(facts: Facts, found: FleetState) -> list[RunFacts]:
    """The runs that pass the filter: live ones first, then by name. ``!word`` leaves out what has the word."""
    text = found.filter.lower()
    wanted = [run for run in facts.runs if _passes(run, text)]
    return sorted(wanted, key=lambda run: (not run.live, run.name))


def _passes(run: RunFacts, text: str) -> bool:
    if not text:
        return True
    words_of = f"{run.name} {state.word(run).text} {_where(run)}".lower()
    return text[1:] not in words_of if text.startswith("!") and text[1:] else text in words_of


def current(facts: Facts, found: FleetState) -> RunFacts | None:
    runs = shown(facts, found)
    return next((run for run in runs if run.name == found.cursor), runs[0] if runs else None)


def rows(facts: Facts, found: FleetState, width: int, height: int) -> list[Row]:
    """Exactly ``height`` rows."""
    runs, here = shown(facts, found), current(facts, found)
    top = [*_header(facts), *_trouble(facts)]
    wide = width >= WIDE
    table = [_titles(wide), *(_run(run, run is here, facts.now, wide, found.ascii) for run in runs)]
    if not runs:
        table = [row(), row(Piece(_nothing(facts, found), "dim"))]
    footer = _footer(found)
    room = height - len(top) - 1
    lanes: list[Row] = []
    if wide and here is not None and height >= 30:
        lanes = [row(), rule(here.name, width, right="⏎ open"), *lane_rows(here, facts.now, width, 6, found.ascii)]
    at_most = max(3, room - len(lanes) - 6) if runs else 2
    body = [*_window(table, runs, here, at_most), *lanes]
    body += _events(facts, width, room - len(body), found.ascii)
    body = body[:room] + [Row()] * (room - len(body))
    return [*top, *body, footer]


def _header(facts: Facts) -> list[Row]:
    by_word: dict[str, tuple[int, str]] = {}
    for run in facts.runs:
        word = state.word(run)
        number, _ = by_word.get(word.text, (0, ""))
        by_word[word.text] = (number + 1, word.role)
    pieces = [Piece(" fleet   ", "bright", True), Piece(f"{len(facts.runs)} run{'s' * (len(facts.runs) != 1)}", "text")]
    for index, (text, (number, role)) in enumerate(sorted(by_word.items(), key=lambda item: -item[1][0])):
        pieces += [Piece(" · ", "faint", drop=index + 1), Piece(f"{number} {text}", role, drop=index + 1)]
    live = facts.store_error == "" and not facts.first
    fresh = Piece("live ", "durable") if live else Piece("stale ", "notice")
    right = (fresh, Piece(words.clock(facts.now) + " ", "dim"))
    rate = sum(run.number("usd_hour") or 0.0 for run in facts.runs)
    spent = sum(run.number("spent_usd") or 0.0 for run in facts.runs)
    risk = sum(_at_risk(run) or 0 for run in facts.runs if run.live)
    second = row(
        Piece(f" {words.usd(rate)}/h", "bright", True), Piece("  spent ", "dim"), Piece(words.usd(spent), "text"),
        Piece("   at risk now ", "dim", drop=1), Piece(f"{risk:,} steps", "text", drop=1),
        right=(Piece("controller: ", "dim", drop=2), Piece(f"{facts.controller} ", _controller_role(facts), drop=2)),
    )  # fmt: skip
    return [row(*pieces, right=right, on="bar"), second]


def _controller_role(facts: Facts) -> str:
    return "notice" if facts.controller.startswith(("none", "can't")) and any(r.live for r in facts.runs) else "dim"


def _trouble(facts: Facts) -> list[Row]:
    if not facts.store_error:
        return [row()]
    since = "" if facts.failing_since is None else f" for {words.age(facts.now - facts.failing_since)}"
    return [
        row(Piece(f" ▲ store unreachable{since} · boxes keep saving, nothing is killed", "notice", True)),
        row(Piece(f"   {facts.store_error}", "dim")),
    ]


def _nothing(facts: Facts, found: FleetState) -> str:
    if facts.first:
        return "   reads the store …"
    if found.filter:
        return f"   no run matches {found.filter}"
    return "   Nothing runs yet.  vl-tui submit run.yaml  begins one;  vl-tui demo  shows one on this machine."


def _titles(wide: bool) -> Row:
    if wide:
        text = (
            f"     {'state':11} {'run':19} {'provider':8} {'place':12} {'market':9} {'progress':26} {'loss':>7}"
            f" {'durable':>8} {'at risk':>8} {'$/h':>7} {'spent':>8} {'finish':>7}"
        )
    else:
        text = f"     {'state':10} {'run':16} {'where':16} {'done':>5} {'durable':>8} {'$/h':>6} {'finish':>6}"
    return row(Piece(text, "dim"))


def _run(run: RunFacts, here: bool, now: float, wide: bool, ascii_only: bool) -> Row:
    word, line = state.word(run), run.timeline
    done = None if not line.total or line.step is None else min(1.0, line.step / line.total)
    durable = None if line.durable_at is None else now - line.durable_at
    rate = run.number("usd_hour") if run.live else 0.0
    finish = finish_at(run, now)
    marker = ">" if ascii_only else "▸"
    pieces = [
        Piece(f" {marker if here else ' '} ", "bright"),
        Piece(f"{word.ascii if ascii_only else word.glyph} ", word.role),
    ]
    if wide:
        pieces += [
            Piece(pad(word.text, 11) + " ", word.role, True), Piece(pad(run.name, 19) + " ", "bright", here),
            Piece(pad(_part(run, 0), 8) + " ", "text"), Piece(pad(_part(run, 1), 12) + " ", "dim"),
            Piece(pad(_part(run, 2), 9) + " ", "dim"), *_bar(run, done, word.role, ascii_only),
            Piece(pad(words.loss(line.loss), 8, right=True), "text"),
            Piece(pad(words.age(durable) if run.live else "final", 9, right=True), _durable_role(run, durable)),
            Piece(pad(words.count(_at_risk(run)) if run.live else "–", 9, right=True), "text"),
            Piece(pad(words.usd(rate), 8, right=True), "text"),
            Piece(pad(words.usd(run.number("spent_usd")), 9, right=True), "text"),
            Piece(pad("–" if finish is None else words.minute(finish), 8, right=True), "text"),
        ]  # fmt: skip
    else:
        percent = "–" if done is None else f"{done:.0%}"
        pieces += [
            Piece(pad(word.text, 10) + " ", word.role, True), Piece(pad(run.name, 16) + " ", "bright", here),
            Piece(pad(_where(run), 16) + " ", "dim"), Piece(pad(percent, 5, right=True), "text"),
            Piece(pad(words.age(durable) if run.live else "final", 9, right=True), _durable_role(run, durable)),
            Piece(pad(words.usd(rate), 7, right=True), "text"),
            Piece(pad("–" if finish is None else words.minute(finish), 7, right=True), "text"),
        ]  # fmt: skip
    return row(*pieces, on="select" if here else "")


def finish_at(run: RunFacts, now: float) -> float | None:
    """Unix seconds at which it ends if nothing happens: steps left by the pace of its last steps."""
    line = run.timeline
    if not run.live or line.total is None or line.step is None or not line.steps_per_s:
        return None
    return now + max(0, line.total - line.step) / line.steps_per_s


def _bar(run: RunFacts, done: float | None, role: str, ascii_only: bool) -> list[Piece]:
    line = run.timeline
    full = round(10 * (done or 0.0))
    on, off = ("=", ".") if ascii_only else ("━", "┄")
    count = f"{words.count(line.step)}/{words.count(line.total)}" if line.total else words.count(line.step)
    return [Piece(on * full, role), Piece(off * (10 - full), "faint"), Piece(pad(f" {count}", 16), "text")]


def _at_risk(run: RunFacts) -> int | None:
    """Steps that would be done again if the box died now."""
    line = run.timeline
    return None if line.step is None else max(0, line.step - (line.durable_step or 0))


def _durable_role(run: RunFacts, durable: float | None) -> str:
    return "durable" if durable is not None and (durable < 900 or not run.live) else "notice"


def _part(run: RunFacts, index: int) -> str:
    attempts = run.timeline.attempts
    live = [box for box in run.boxes if not box.get("given_up")]
    if live:
        box = next((one for one in live if one.get("launch") == run.head.launch), live[-1])
        return str((box.get("provider"), box.get("place"), box.get("market"))[index] or "–")
    if attempts:
        last = attempts[-1]
        return (last.provider, last.place, last.market)[index] or "–"
    return "–"


def _where(run: RunFacts) -> str:
    provider, place = _part(run, 0), _part(run, 1)
    return "–" if provider == place == "–" else f"{provider} {place}"


def _window(table: Sequence[Row], runs: Sequence[RunFacts], here: RunFacts | None, at_most: int) -> list[Row]:
    """The title and as many runs as there is room for, the one under the cursor among them."""
    if len(table) <= at_most:
        return list(table)
    at = runs.index(here) if here in runs else 0
    first = min(max(0, at - (at_most - 1) // 2), len(runs) - (at_most - 1))
    return [table[0], *table[1 + first : first + at_most]]


def _events(facts: Facts, width: int, room: int, ascii_only: bool) -> list[Row]:
    if room < 3:
        return []
    found = [(event, run.name) for run in facts.runs for event in run.timeline.recent]
    newest = sorted(found, key=lambda item: item[0].t, reverse=True)[: room - 2]
    lines = [row(), rule("events", width)]
    names = min(19, max((len(name) for _, name in newest), default=0))
    for event, name in newest:
        glyph, role, text = told(event)
        at = words.minute(event.t) if width < WIDE else words.clock(event.t)
        mark = Piece("* " if ascii_only else f"{glyph} ", role)
        what = Piece(text, "dim" if role == "dim" else "text")
        lines.append(row(Piece(f" {at} ", "faint"), mark, Piece(pad(name, names) + "  ", "text"), what))
    return lines


def _footer(found: FleetState) -> Row:
    if found.typing:
        return row(Piece(" /", "key", True), Piece(found.filter, "bright"), Piece("▌", "bright"),
                   right=(Piece("⏎ keep  esc clear ", "dim"),), on="bar")  # fmt: skip
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
