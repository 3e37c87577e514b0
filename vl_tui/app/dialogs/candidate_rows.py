"""The candidates dialog as rows: where a run could go, what each choice costs and when it ends there. Pure.

One dialog for migrate and escalate: the same list, for escalate on-demand only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vl_agent.protocol import Market

from vl_tui.app import words
from vl_tui.app.dialogs.frame import framed, keys_row
from vl_tui.app.draw import Piece, Row, row
from vl_tui.app.facts import Facts, RunFacts, number
from vl_tui.app.screens.table import Column, cells, choose, titles
from vl_tui.domain.run import Progress
from vl_tui.domain.timeline import LOST_REASONS
from vl_tui.policy.candidates import Candidate, Want, candidates, estimate

MOST = 9
"""Candidates that a digit can pick."""
OLD_S = 120.0
"""Offers older than that are said to be old."""
TROUBLE_S = 1800.0
"""A place where the run was lost is said to be one for so long, and is not what stands picked at first."""
COLUMNS = (
    Column("to", 12, flex=26), Column("market", 9, drop=2), Column("$/h", 6, right=True),
    Column("ready", 5, right=True, drop=1), Column("finish", 11, right=True, flex=15),
    Column("cost", 10, right=True),
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What the dialog shows."""

    run: str
    epoch: int
    action: str
    stay: Candidate | None
    found: tuple[Candidate, ...]
    more: int = 0
    """Candidates after the ninth."""
    refused: tuple[Candidate, ...] = ()
    """Offers that do not fit."""
    offers_at: float = 0.0
    """Unix seconds; 0: there are none."""
    lost_at: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Provider and place -> when the run was last lost there."""

    def best(self, now: float) -> int:
        """What stands picked at first: the first that was not lost just now; 0: stay."""
        good = (index for index, one in enumerate(self.found, 1) if not self._troubled(one, now))
        return next(good, 1 if self.found else 0)

    def _troubled(self, one: Candidate, now: float) -> bool:
        lost = self.lost_at.get((one.offer.provider, one.offer.place))
        return lost is not None and now - lost < TROUBLE_S


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
    others = [offer for offer in facts.offers if offer.key != here and offer.market in markets]
    judged = candidates(want, others, exclusions={})
    fit = tuple(one for one in judged if not one.refused)
    lost = {(a.provider, a.place): a.ended_at for a in run.timeline.attempts if a.end in (*LOST_REASONS, "notice")}
    return Choice(
        run.name, run.head.epoch, action, estimate(want, own) if own is not None else None, fit[:MOST],
        more=max(0, len(fit) - MOST), refused=tuple(one for one in judged if one.refused),
        offers_at=facts.view_at if facts.offers else 0.0,
        lost_at={place: at for place, at in lost.items() if at is not None},
    )  # fmt: skip


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
    pace = number(told, "s_per_step") or (1 / line.steps_per_s if line.steps_per_s else 0.0)
    every = number(told, "save_every_s")
    return Progress(
        step=line.step, durable_step=line.durable_step, total_steps=line.total, s_per_step=pace if pace > 0 else None,
        save_every_s=every if every > 0 else 300.0,
    )  # fmt: skip


def rows(found: Choice, picked: int, width: int, height: int, now: float) -> list[Row]:
    """The dialog's rows, its frame included, each ``width`` cells and at most ``height`` of them. Price and finish of
    every choice stay; what is explained below gives way first."""
    inner = width - 4
    widths = choose(COLUMNS, inner - 3)
    head = [_title(found, now), row(Piece("   "), titles(COLUMNS, widths))]
    lines = [_line(index + 1, one, picked, widths, now) for index, one in enumerate(found.found)]
    stay = _line(0, found.stay, picked, widths, now)
    notes, below = _notes(found), _consequences(found, picked, now)
    room = height - 2 - len(head) - 2  # frame, and the rows of staying and of the keys
    gaps = 2 if room >= len(lines) + len(notes) + len(below) + 2 else 0
    most = max(1, min(len(lines), room - gaps - len(notes)))
    below = below[: max(0, room - gaps - min(len(lines), most) - len(notes))]
    first = min(max(0, picked - 1 - most // 2), len(lines) - most) if lines else 0
    body = [*head, *lines[first : first + most], stay, *notes, *[Row()] * (gaps // 2), *below, *[Row()] * (gaps // 2)]
    return framed([*body, _keys(found, picked, named="market" in widths)], width)


def _title(found: Choice, now: float) -> Row:
    verb = "Escalate" if found.action == "escalate" else "Migrate"
    target = " to on-demand" if found.action == "escalate" else f" · attempt {found.epoch} → {found.epoch + 1}"
    if not found.offers_at:
        return row(Piece(f"{verb} {found.run}{target}", "bright", True), right=(Piece("no offers yet", "notice"),))
    age = now - found.offers_at
    role = "notice" if age > OLD_S else "dim"
    title = Piece(f"{verb} {found.run}{target}", "bright", True)
    return row(title, right=(Piece(f"offers {words.age(age)} old", role),))


def _line(picks: int, one: Candidate | None, picked: int, widths: dict[str, int], now: float) -> Row:
    here = picks == picked
    mark = (Piece("▸" if here else " ", "bright"), Piece(f" {picks}", "key"))
    on = "select" if here else ""
    name = "stay" if picks == 0 else ""
    if one is None:
        return row(*mark, Piece(f" {name}", "bright" if here else "text", here), on=on)
    place = f"{one.offer.provider} {one.offer.place}"
    values = {
        "to": Piece(f"{name} {place}".lstrip(), "bright" if here else "text", here),
        "market": Piece(_market(one), "dim"),
        "$/h": Piece(words.usd(one.usd_hour), "text"),
        "ready": Piece("–" if picks == 0 else words.age(one.ready_s), "text"),
        "finish": Piece(_finish(one, now), "lost" if one.late else "text"),
        "cost": Piece("–" if one.cost_usd is None else words.usd_span(*one.cost_usd), "text"),
    }
    return row(*mark, *cells(COLUMNS, widths, values), on=on)


def _market(one: Candidate) -> str:
    return one.offer.market.replace("_", "-")


def _finish(one: Candidate, now: float) -> str:
    if one.finish_s is None:
        return "–"
    low, high = (words.when(now + seconds, now) for seconds in one.finish_s)
    return low if low == high else f"{low}–{high}"


def _notes(found: Choice) -> list[Row]:
    """What is not in the list, and why."""
    notes = []
    if not found.found:
        notes.append(row(Piece("   nothing to go to now", "notice")))
    if found.more:
        notes.append(row(Piece(f"   {found.more} more, each dearer or later", "faint")))
    shown = found.refused[: 1 if found.found else 3]
    for one in shown:
        others = len(found.refused) - len(shown) if one is shown[-1] else 0
        text = f"   not {one.offer.provider} {one.offer.place}: {one.refused}{f' · {others} more' if others else ''}"
        notes.append(row(Piece(text, "faint")))
    return notes


def _consequences(found: Choice, picked: int, now: float) -> list[Row]:
    """What follows from the choice, as (label, words) rows."""
    if picked == 0 or picked > len(found.found):
        return [_consequence("stay", "nothing changes")]
    one = found.found[picked - 1]
    lines = []
    lost = found.lost_at.get((one.offer.provider, one.offer.place))
    if lost is not None and now - lost < TROUBLE_S:
        lines.append(_consequence("place", f"the run was lost there {words.age(now - lost)} ago", "notice"))
    if one.late:
        lines.append(_consequence("late", "expected to miss the deadline there", "lost"))
    if found.stay is not None and found.stay.cost_usd and one.cost_usd:
        lines.append(_consequence("cost", _against(one.cost_usd[1] - found.stay.cost_usd[1])))
    if found.stay is not None:
        lines.append(_consequence("steps", f"start there ({words.age(one.ready_s)}) → save here → go on there"))
    else:
        lines.append(_consequence("steps", f"start there ({words.age(one.ready_s)}) → go on there"))
    wasted = one.usd_hour * one.ready_s / 3600
    price = f"about {words.usd(wasted)}" if wasted >= 0.01 else "under a cent"
    lines.append(_consequence("worst", f"its box never comes: the run goes on as it is, {price} spent"))
    return lines


def _against(more: float) -> str:
    if abs(more) < 0.005:
        return "the same as staying"
    return f"{words.usd(abs(more))} {'more' if more > 0 else 'less'} than staying"


def _consequence(label: str, text: str, role: str = "text") -> Row:
    return row(Piece(f"{label:7}", "dim"), Piece(text, role))


def _keys(found: Choice, picked: int, *, named: bool) -> Row:
    """``named``: the list says in which market each choice is."""
    act = "stay"
    if 0 < picked <= len(found.found):
        verb = "escalate" if found.action == "escalate" else "migrate"
        market = "" if named or found.action == "escalate" else f", {_market(found.found[picked - 1])}"
        act = f"{verb} to {picked}{market}"
    pick = [("0" if not found.found else f"0-{len(found.found)}", "pick")]
    return keys_row([("enter", act), *pick, ("esc", "no change")])
