"""The Run screen as rows: where it is, its timeline, its log. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from vl_tui.app import state, words
from vl_tui.app.draw import Piece, Row, row, rule
from vl_tui.app.facts import Facts, RunFacts
from vl_tui.app.log import LogStore
from vl_tui.app.screens.fleet_rows import at_risk, durable_role, finish_at, footer, late_role
from vl_tui.app.screens.lane_rows import lane_rows, legend
from vl_tui.app.screens.trouble_rows import age_pieces, aged, trouble_rows

KEYS = (("m", "migrate"), ("e", "escalate"), ("s", "stop"), ("f", "follow"), ("esc", "fleet"))
TALL = 30


@dataclass(frozen=True)
class RunState:
    """What a person did on this screen."""

    name: str
    top: int = 0
    """First line of the log that is shown, where it is not followed; lines let go are counted."""
    follow: bool = True
    status: str = ""


def rows(facts: Facts, found: RunState, log: LogStore, width: int, height: int, now: float) -> list[Row]:
    """Exactly ``height`` rows."""
    top = _top(facts, found, log, width, height, now)
    room = height - len(top) - 1
    first = first_line(found, log, room)
    body = [_log_line(log, index) for index in range(first, min(first + room, len(log)))]
    run = facts.run(found.name)
    if run is not None and not len(log):
        body = [row(Piece(f"   {_no_log(run, log)}", "dim"))]
    body = body[: max(0, room)]
    keys = KEYS if run is not None else KEYS[-1:]
    return [*top, *body, *[Row()] * (room - len(body)), footer(keys, found.status)][:height]


def log_room(facts: Facts, found: RunState, log: LogStore, width: int, height: int, now: float) -> int:
    """How many rows the log has."""
    return max(1, height - len(_top(facts, found, log, width, height, now)) - 1)


def first_line(found: RunState, log: LogStore, room: int) -> int:
    """The log line in the first row."""
    last = max(0, len(log) - room)
    return last if found.follow else min(max(0, found.top - log.dropped), last)


def _top(facts: Facts, found: RunState, log: LogStore, width: int, height: int, now: float) -> list[Row]:
    """All that stands above the log."""
    run = facts.run(found.name)
    trouble = trouble_rows(facts, now, width, 4 if height >= TALL else 2)
    if run is None:
        return [*_absent(facts, found, now), *trouble, Row()]
    lanes = lane_rows(run, now, width, 8 if height >= TALL else 4 if height >= 20 else 2)
    figures = aged([_figures(run, now), *_deadline(run, now, width)], facts, now)
    top = [_header(facts, run, now), *figures, *trouble, *_words(run), *lanes]
    if height >= 40:
        top.append(legend(width))
    return [*top, _log_rule(run, found, log, width)]


def _absent(facts: Facts, found: RunState, now: float) -> list[Row]:
    title = row(Piece(" fleet › ", "dim"), Piece(found.name, "bright", True), right=age_pieces(facts, now), on="bar")
    gone = "reads the store …" if facts.first else f"there is no run {found.name} in the store"
    return [title, row(Piece(f"   {gone}", "dim"))]


def _header(facts: Facts, run: RunFacts, now: float) -> Row:
    word, line = state.word(run), run.timeline
    attempt = line.attempts[-1] if line.attempts else None
    at = f"  attempt {attempt.epoch} · {attempt.provider} {attempt.place}" if attempt else "  no attempt yet"
    price = f" · {attempt.market.replace('_', '-')} {words.usd(attempt.usd_hour)}/h" if attempt else ""
    return row(
        Piece(" fleet › ", "dim", drop=3), Piece(run.name, "bright", True),
        Piece(f"  {word.glyph} {word.text}", word.role, True), Piece(at, "text", drop=4), Piece(price, "dim", drop=5),
        right=age_pieces(facts, now), on="bar",
    )  # fmt: skip


def _figures(run: RunFacts, now: float) -> Row:
    line = run.timeline
    of = f" of {words.count(line.total)}" if line.total else ""
    age = None if line.durable_at is None else now - line.durable_at
    durable = Piece("not yet", "notice")
    if age is not None:
        durable = Piece(f"{words.age(age)} ago", durable_role(run, age) if run.live else "text")
    risk = at_risk(run)
    budget = run.spec.budget_usd if run.spec else None
    finish = finish_at(run, now)
    pieces = [
        Piece(" step ", "dim"), Piece(words.count(line.step), "bright", True), Piece(of, "dim", drop=7),
        Piece("   loss ", "dim"), Piece(words.loss(line.loss), "bright", True),
        Piece("   pace ", "dim", drop=6), Piece(words.pace(line.steps_per_s), "text", drop=6),
        Piece("   ● ", "durable"), Piece("durable ", "dim"), durable,
    ]  # fmt: skip
    if run.live and risk is not None:
        pieces.append(Piece(f" · {words.steps(risk)} at risk", "dim", drop=8))
    if finish is not None:
        role = late_role(run, finish)
        pieces += [Piece("   finish ", "dim", drop=5), Piece(words.when(finish, now), role, drop=5)]
    right = [Piece("spent ", "dim"), Piece(words.usd(run.number("spent_usd")), "text")]
    right.append(Piece(f" of {words.usd(budget)} " if budget else " ", "dim"))
    return row(*pieces, right=right)


def _deadline(run: RunFacts, now: float, width: int) -> list[Row]:
    """Done, to come, the forecast and the deadline on one axis; the words beside it say the same."""
    due = run.spec.deadline if run.spec else None
    start = run.timeline.start
    if due is None or start is None or not run.live:
        return []
    finish = finish_at(run, now)
    label = f" due {words.when(due, now)} "
    verdict, role = _in_time(due, finish, now)
    room = width - len(label) - len(verdict) - 3
    end = max(due, finish or 0.0, now) + 1.0

    def column(at: float) -> int:
        share = min(1.0, max(0.0, (at - start) / max(1.0, end - start)))
        return round(share * (room - 1))

    if room < 8:
        return [row(Piece(label, "dim"), Piece(verdict, role))]
    cells = ["━" if i <= column(now) else "┄" for i in range(room)]
    if finish is not None:
        cells[column(finish)] = "━"
    cells[column(due)] = "┃"
    return [row(Piece(label, "dim"), Piece("".join(cells), "train"), Piece(f"  {verdict}", role))]


def _in_time(due: float, finish: float | None, now: float) -> tuple[str, str]:
    if now > due:
        return f"✗ due {words.age(now - due)} ago", "lost"
    if finish is None:
        return f"{words.age(due - now)} left, finish not known yet", "text"
    spare = due - finish
    return (f"✓ {words.age(spare)} to spare", "durable") if spare >= 0 else (f"✗ {words.age(-spare)} late", "lost")


def _words(run: RunFacts) -> list[Row]:
    """What the controller says of the run now, in one row."""
    verdicts = ("suspect", "unknown", "lost", "at_risk", "supervisor_dead", "link_only")
    if run.live and run.text("verdict") in verdicts:
        return [row(Piece(f" ▲ {run.text('words')}", "notice"))]
    if run.live and run.text("waiting"):
        return [row(Piece(f" ┄ {run.text('waiting')}", "prov"))]
    if not run.live and run.head.detail:
        return [row(Piece(f" {run.head.detail}", "dim"))]
    return []


def _log_rule(run: RunFacts, found: RunState, log: LogStore, width: int) -> Row:
    where = "following" if found.follow else f"line {found.top + 1:,} of {len(log) + log.dropped:,} · f follows"
    link = f"{log.link} · " if log.link and run.live and len(log) else ""
    return rule(f"log · attempt {run.head.attempt}", width, right=f"{link}{where}")


def _log_line(log: LogStore, index: int) -> Row:
    text, role = log.line(index)
    return row(Piece(" " + text, role))


def _no_log(run: RunFacts, log: LogStore) -> str:
    if not run.live:
        return "the store keeps no log of this run"
    if log.link:
        return f"waits for the box's log · {log.link}"
    return "waits for the log" if run.head.state in ("starting", "running") else "waits for a box"
