"""The Run screen as rows: where it is, its timeline, its log. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from vl_tui.app import state, words
from vl_tui.app.draw import Piece, Row, row, rule
from vl_tui.app.facts import Facts, RunFacts
from vl_tui.app.log import LogStore
from vl_tui.app.screens.fleet_rows import finish_at, footer
from vl_tui.app.screens.lane_rows import lane_rows

KEYS = (("m", "migrate"), ("e", "escalate"), ("s", "stop"), ("f", "follow"), ("esc", "fleet"))


@dataclass(frozen=True)
class RunState:
    """What a person did on this screen."""

    name: str
    top: int = 0
    """First line of the log that is shown, where it is not followed."""
    follow: bool = True
    status: str = ""
    ascii: bool = False


def rows(facts: Facts, found: RunState, log: LogStore, width: int, height: int) -> list[Row]:
    """Exactly ``height`` rows."""
    run = facts.run(found.name)
    if run is None:
        gone = "reads the store …" if facts.first else f"there is no run {found.name} in the store"
        body = [row(Piece(f" fleet › {found.name}", "bright", True), on="bar"), row(), row(Piece(f"   {gone}", "dim"))]
        return [*body, *[Row()] * (height - len(body) - 1), footer(KEYS[-1:], found.status)]
    top = [*_header(facts, run, width, found.ascii), *lane_rows(run, facts.now, width, _lanes(height), found.ascii)]
    attempt = f"log · attempt {run.head.attempt}"
    follow = "► following" if found.follow else f"line {found.top + 1:,} of {len(log):,} · f follows"
    top.append(rule(attempt, width, right=follow))
    room = max(0, height - len(top) - 1)
    first = first_line(found, log, room)
    body = [_log_line(log, index) for index in range(first, min(first + room, len(log)))]
    if not len(log):
        body = [row(Piece(f"   {_no_log(run, log)}", "dim"))]
    return [*top, *body[:room], *[Row()] * (room - len(body)), footer(KEYS, found.status)]


def _lanes(height: int) -> int:
    return 4 if height < 30 else 8


def first_line(found: RunState, log: LogStore, room: int) -> int:
    """The log line in the first row."""
    last = max(0, len(log) - room)
    return last if found.follow else min(found.top, last)


def log_room(facts: Facts, found: RunState, width: int, height: int) -> int:
    """How many rows the log has."""
    run = facts.run(found.name)
    if run is None:
        return 1
    lanes = lane_rows(run, facts.now, width, _lanes(height), found.ascii)
    return max(1, height - len(_header(facts, run, width, found.ascii)) - len(lanes) - 2)


def _log_line(log: LogStore, index: int) -> Row:
    text, role = log.line(index)
    return row(Piece(" " + text, role))


def _no_log(run: RunFacts, log: LogStore) -> str:
    if not run.live:
        return "no log is kept of this run"
    return f"waits for the box's log · {log.link}" if log.link else "waits for a box"


def _header(facts: Facts, run: RunFacts, width: int, ascii_only: bool) -> list[Row]:
    word, line = state.word(run), run.timeline
    attempt = line.attempts[-1] if line.attempts else None
    where = f"attempt {attempt.epoch} · {attempt.provider} {attempt.place}" if attempt else "no attempt yet"
    price = f" · {attempt.market.replace('_', '-')} {words.usd(attempt.usd_hour)}/h" if attempt else ""
    live = not facts.store_error and not facts.first
    first = row(
        Piece(" fleet › ", "dim"), Piece(run.name, "bright", True),
        Piece(f"  {word.ascii if ascii_only else word.glyph} {word.text}", word.role, True),
        Piece(f"  {where}", "text"), Piece(price, "dim", drop=2),
        right=(Piece("live " if live else "stale ", "durable" if live else "notice"),
               Piece(words.clock(facts.now) + " ", "dim", drop=1)),
        on="bar",
    )  # fmt: skip
    return [first, _figures(run, facts.now), *_deadline(run, facts.now, width, ascii_only), *_words(facts, run)]


def _figures(run: RunFacts, now: float) -> Row:
    line = run.timeline
    of = f" of {words.count(line.total)}" if line.total else ""
    durable = Piece("not yet", "notice")
    if line.durable_at is not None:
        durable = Piece(f"{words.age(now - line.durable_at)} ago", "text")
    risk = None if line.step is None else max(0, line.step - (line.durable_step or 0))
    budget = run.spec.budget_usd if run.spec else None
    pace = "–" if line.steps_per_s is None else f"{line.steps_per_s:.1f}/s"
    finish = finish_at(run, now)
    pieces = [
        Piece(" step ", "dim"), Piece(words.count(line.step), "bright", True), Piece(of, "dim", drop=3),
        Piece("   loss ", "dim"), Piece(words.loss(line.loss), "bright", True),
        Piece("   steps ", "dim", drop=2), Piece(pace, "text", drop=2),
        Piece("   ● ", "durable"), Piece("durable ", "dim"), durable,
    ]  # fmt: skip
    if run.live and risk is not None:
        pieces.append(Piece(f" · {risk:,} steps at risk", "dim", drop=4))
    if finish is not None:
        pieces += [Piece("   finish ", "dim", drop=5), Piece(words.minute(finish), "text", drop=5)]
    right = [Piece("spent ", "dim"), Piece(words.usd(run.number("spent_usd")), "text")]
    right.append(Piece(f" of {words.usd(budget)} " if budget else " ", "dim"))
    return row(*pieces, right=right)


def _deadline(run: RunFacts, now: float, width: int, ascii_only: bool) -> list[Row]:
    """Done, to come, the forecast and the deadline on one axis; the words beside it say the same."""
    due = run.spec.deadline if run.spec else None
    start = run.timeline.start
    if due is None or start is None or not run.live:
        return []
    finish = finish_at(run, now)
    words_due = f" due {words.minute(due)} "
    spare = None if finish is None else due - finish
    verdict = "finish not known yet"
    if spare is not None:
        verdict = f"✓ {words.age(spare)} to spare" if spare >= 0 else f"✗ {words.age(-spare)} late"
    room = width - len(words_due) - len(verdict) - 3
    end = max(due, finish or 0.0, now) + 1.0
    line, dots, wall = ("=", ".", "|") if ascii_only else ("━", "┄", "┃")

    def column(at: float) -> int:
        return min(room - 1, max(0, round((at - start) / (end - start) * (room - 1))))

    cells = [line if i <= column(now) else dots for i in range(room)]
    if finish is not None:
        cells[column(finish)] = line
    cells[column(due)] = wall
    role = "text" if spare is None else "durable" if spare >= 0 else "lost"
    return [row(Piece(words_due, "dim"), Piece("".join(cells), "train"), Piece(f"  {verdict}", role))]


def _words(facts: Facts, run: RunFacts) -> list[Row]:
    """What a person must know now, in one row: trouble first."""
    if facts.store_error:
        since = words.age(facts.now - (facts.failing_since or facts.now))
        return [row(Piece(f" ▲ store unreachable for {since}: {facts.store_error}", "notice"))]
    told = run.text("words")
    if run.live and run.text("verdict") in ("suspect", "unknown", "lost", "at_risk", "supervisor_dead", "link_only"):
        return [row(Piece(f" ▲ {told}", "notice"))]
    if run.live and run.text("waiting"):
        return [row(Piece(f" ┄ {run.text('waiting')}", "prov"))]
    if not run.live and run.head.detail:
        return [row(Piece(f" {run.head.detail}", "dim"))]
    return []
