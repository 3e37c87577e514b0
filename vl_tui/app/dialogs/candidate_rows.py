"""The candidates dialog as rows: where a run could go, what each choice costs and when it ends there. Pure.

One dialog for migrate and escalate: the same list, for escalate on-demand only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vl_agent.protocol import Market

from vl_tui.app import words
from vl_tui.app.draw import Piece, Row, pad, row
from vl_tui.app.facts import Facts, RunFacts
from vl_tui.domain.run import Progress
from vl_tui.policy.candidates import Candidate, Want, candidates, estimate

MOST = 9
"""Candidates that a digit can pick."""


@dataclass(frozen=True)
class Choice:
    """What the dialog shows."""

    run: str
    epoch: int
    action: str
    stay: Candidate | None
    found: tuple[Candidate, ...]
    refused: int
    offers_age_s: float | None


def choice(facts: Facts, run: RunFacts, action: str, now: float) -> Choice:
    """The places to go to, the best first, and what staying comes to."""
    here = _here(run)
    own = next((offer for offer in facts.offers if offer.key == here), None)
    markets: tuple[Market, ...] = ("on_demand",) if action == "escalate" else ("spot", "on_demand", "owned")
    spec = run.spec
    budget = spec.budget_usd if spec else None
    want = Want(
        gpu=spec.gpu if spec else "",
        market=spec.market if spec else "spot",
        deadline_in_s=spec.deadline - now if spec and spec.deadline else None,
        left_usd=None if budget is None else budget - (run.number("spent_usd") or 0.0),
        progress=_progress(run),
        here=here,
        only=markets,
    )
    judged = candidates(want, facts.offers, exclusions={})
    fit = tuple(one for one in judged if not one.refused)
    age = now - facts.offers_at if facts.offers_at else None
    stay = estimate(want, own) if own is not None else None
    return Choice(run.name, run.head.epoch, action, stay, fit[:MOST], len(judged) - len(fit), age)


def _here(run: RunFacts) -> str:
    attempts = run.timeline.attempts
    last = attempts[-1] if attempts and run.head.state in ("starting", "running") else None
    gpu = run.spec.gpu if run.spec else ""
    return f"{last.provider}/{last.place}/{gpu}/{last.market}" if last else ""


def _progress(run: RunFacts) -> Progress:
    """The controller's own figures; where it told none, those of the journals."""
    view = run.view.get("progress")
    told: Mapping[str, Any] = view if isinstance(view, dict) else {}
    line = run.timeline
    pace = told.get("s_per_step")
    if not isinstance(pace, (int, float)) or pace <= 0:
        pace = 1 / line.steps_per_s if line.steps_per_s else None
    every = told.get("save_every_s")
    return Progress(
        step=line.step, durable_step=line.durable_step, total_steps=line.total, s_per_step=pace,
        save_every_s=float(every) if isinstance(every, (int, float)) and every > 0 else 300.0,
    )  # fmt: skip


def rows(found: Choice, picked: int, width: int, now: float) -> list[Row]:
    """The dialog's rows, its frame included, each ``width`` cells."""
    inner = width - 4
    lines = [_title(found), _columns(inner), *_lines(found, picked, inner, now), row()]
    lines += _consequences(found, picked, now)
    lines += [row(), _keys(found, picked)]
    top = row(Piece("╭" + "─" * (width - 2) + "╮", "key"))
    bottom = row(Piece("╰" + "─" * (width - 2) + "╯", "key"))
    return [top, *(_framed(line, inner) for line in lines), bottom]


def _framed(line: Row, inner: int) -> Row:
    from vl_tui.app.draw import fit

    return Row((Piece("│ ", "key"), *fit(line, inner)), (Piece(" │", "key"),), "")


def _title(found: Choice) -> Row:
    verb = "Escalate" if found.action == "escalate" else "Migrate"
    target = " to on-demand" if found.action == "escalate" else f" · attempt {found.epoch} → {found.epoch + 1}"
    age = "no offers yet" if found.offers_age_s is None else f"offers {words.age(found.offers_age_s)} old"
    stale = found.offers_age_s is None or found.offers_age_s > 120
    return row(Piece(f"{verb} {found.run}{target}", "bright", True), right=(Piece(age, "notice" if stale else "dim"),))


def _columns(inner: int) -> Row:
    return row(Piece(f"    {'to':22} {'market':9} {'$/h':>6} {'ready':>6} {'finish':>11} {'cost':>8}", "dim"))


def _lines(found: Choice, picked: int, inner: int, now: float) -> list[Row]:
    lines = [_line(index + 1, one, picked, now) for index, one in enumerate(found.found)]
    if not found.found:
        lines.append(row(Piece("    nothing fits now: no offer with capacity that the run may use", "notice")))
    lines.append(_line(0, found.stay, picked, now))
    if found.refused:
        lines.append(row(Piece(f"    {found.refused} offers do not fit (capacity, GPU, budget, market)", "faint")))
    return lines


def _line(number: int, one: Candidate | None, picked: int, now: float) -> Row:
    here = number == picked
    mark = Piece("▸ " if here else "  ", "bright")
    label = "stay" if number == 0 else ""
    if one is None:
        return row(mark, Piece(f"0 {label}", "bright" if here else "text", here), on="select" if here else "")
    where = f"{one.offer.provider} {one.offer.place}"
    ready = "–" if number == 0 else words.age(one.ready_s)
    name = pad(f"{label}  {where}" if label else where, 22) + " "
    pieces = [
        mark,
        Piece(f"{number} ", "key"),
        Piece(name, "bright" if here else "text"),
        Piece(pad(one.offer.market.replace("_", "-"), 9) + " ", "dim"),
        Piece(pad(words.usd(one.usd_hour), 6, right=True), "text"),
        Piece(pad(ready, 7, right=True), "text"),
        Piece(pad(_finish(one, now), 12, right=True), "notice" if one.late else "text"),
        Piece(pad(_cost(one), 9, right=True), "text"),
    ]
    return row(*pieces, on="select" if here else "")


def _finish(one: Candidate, now: float) -> str:
    if one.finish_s is None:
        return "–"
    low, high = (time.strftime("%H:%M", time.localtime(now + seconds)) for seconds in one.finish_s)
    return low if low == high else f"{low}–{high}"


def _cost(one: Candidate) -> str:
    return "–" if one.cost_usd is None else words.usd_span(*one.cost_usd)


def _consequences(found: Choice, picked: int, now: float) -> list[Row]:
    if picked == 0 or picked > len(found.found):
        return [row(Piece("stay   ", "dim"), Piece("nothing changes", "text"))]
    one = found.found[picked - 1]
    lines = [
        row(
            Piece("steps  ", "dim"),
            Piece(f"start there ({words.age(one.ready_s)}) → save here → go on there", "text"),
        )
    ]
    lines.append(
        row(
            Piece("worst  ", "dim"),
            Piece(f"the box never comes: goes on here, about {words.usd(one.usd_hour * one.ready_s / 3600)}", "text"),
        )
    )
    if one.late:
        lines.append(row(Piece("late   ", "dim"), Piece("expected to miss the deadline there", "notice")))
    if found.stay is not None and found.stay.cost_usd and one.cost_usd:
        more = one.cost_usd[1] - found.stay.cost_usd[1]
        lines.append(
            row(
                Piece("cost   ", "dim"),
                Piece(f"{'+' if more >= 0 else '−'}{words.usd(abs(more))} against staying", "text"),
            )
        )
    return lines


def _keys(found: Choice, picked: int) -> Row:
    if picked and picked <= len(found.found):
        verb = "escalate" if found.action == "escalate" else "migrate"
        do = (Piece("⏎", "key", True), Piece(f" {verb} to {picked}   ", "text"))
    else:
        do = (Piece("⏎", "key", True), Piece(" stay   ", "text"))
    return row(*do, Piece(f"0-{len(found.found)}", "key", True), Piece(" pick   ", "text"), Piece("esc", "key", True),
               Piece(" no change", "text"))  # fmt: skip
