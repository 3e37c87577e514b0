"""``vl-tui ls``: every run, from the store alone; what only a running controller knows is added with its age."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from vl_agent.protocol import ENDED_STATES, VIEW_KEY, ProtocolError
from vl_agent.store import NotFound, Store

from vl_tui.commands.opened import with_store
from vl_tui.config import load_fleet
from vl_tui.domain import money
from vl_tui.domain.safe import clean
from vl_tui.store import runs


@dataclass(frozen=True)
class Row:
    """One run. Money in USD, ages in seconds; None: not known."""

    name: str
    state: str
    attempt: int = 0
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    durable_step: int | None = None
    where: str = ""
    usd_hour: float = 0.0
    spent_usd: float = 0.0
    submitted_age_s: float | None = None
    detail: str = ""
    at_risk: str = ""
    """Why its work can't become durable; empty: it can."""
    at_risk_s: float = 0.0


def run(args: argparse.Namespace) -> int:
    fleet = load_fleet(args.fleet)
    now = time.time()
    rows, view = with_store(fleet, lambda store: _gather(store, now))
    age = _view_age(view, now)
    if args.json:
        body = {"fleet": fleet.fleet, "store": fleet.store, "view_age_s": age, "runs": [asdict(row) for row in rows]}
        print(json.dumps(body, indent=2))
    else:
        print("\n".join(table(rows, age)))
    return 0


async def _gather(store: Store, now: float) -> tuple[list[Row], dict[str, Any]]:
    names = await runs.names(store)
    view = await _view(store)
    notes = view.get("runs")
    rows = await asyncio.gather(*(_row(store, name, now, notes if isinstance(notes, dict) else {}) for name in names))
    return sorted(rows, key=lambda row: (row.state in ENDED_STATES, row.name)), view


async def _row(store: Store, name: str, now: float, notes: dict[str, Any]) -> Row:
    try:
        head, spec = await runs.head(store, name), await runs.spec(store, name)
        launched = await runs.launches(store, name)
        beat = await runs.beat(store, name, head.attempt) if head.attempt else None
    except NotFound:
        return Row(name, "unfinished submit", detail="its head is missing: submit it again")
    except ProtocolError as error:
        return Row(name, "unreadable", detail=clean(str(error)))
    pairs = [(launch.record, launch.end) for launch in launched]
    live = [record for record, end in pairs if end is None]  # of a run that has ended, too: it is paid for
    note = notes.get(name)
    waiting = note.get("waiting") if isinstance(note, dict) and head.state not in ENDED_STATES else ""
    total = spec.total_steps if spec.total_steps is not None else beat.total_steps if beat else None
    return Row(
        name=name,
        state=head.state,
        attempt=head.attempt,
        step=beat.step if beat else None,
        total_steps=total,
        loss=beat.loss if beat else None,
        durable_step=head.checkpoint.step if head.checkpoint else None,
        where=", ".join(f"{record.provider}/{record.place} {record.market}" for record in live),
        usd_hour=sum(record.usd_hour for record in live),
        spent_usd=money.spent_usd(pairs, now),
        submitted_age_s=max(0.0, now - spec.submitted_at) if spec.submitted_at else None,
        detail=clean(str(waiting or head.detail)),
        at_risk=clean(beat.at_risk) if beat and head.state == "running" else "",
        at_risk_s=beat.at_risk_s if beat and head.state == "running" else 0.0,
    )


async def _view(store: Store) -> dict[str, Any]:
    """What the controller published; empty where there is none, or none that can be read."""
    try:
        found = json.loads((await store.get(VIEW_KEY)).data)
    except (NotFound, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _view_age(view: dict[str, Any], now: float) -> float | None:
    published = view.get("published_at")
    return max(0.0, now - published) if isinstance(published, (int, float)) else None


HEADINGS = ("RUN", "STATE", "ATTEMPT", "STEP", "DURABLE", "WHERE", "$/H", "SPENT", "AGE", "")


def table(rows: list[Row], view_age: float | None) -> list[str]:
    """The rows as lines of aligned columns, and a last line on how fresh they are."""
    if not rows:
        return ["no runs yet: `vl-tui submit run.yaml` brings one"]
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    if view_age is None:
        return [*lines, "", "no controller has kept this fleet yet: `vl-tui` or `vl-tui controller` starts one"]
    return [*lines, "", f"the controller last wrote {age(view_age)} ago"]


def _cells(row: Row) -> tuple[str, ...]:
    step = "-" if row.step is None else str(row.step)
    if row.total_steps is not None:
        step += f"/{row.total_steps}"
    durable = "-" if row.durable_step is None else str(row.durable_step)
    since = "-" if row.submitted_age_s is None else age(row.submitted_age_s)
    rate = f"{row.usd_hour:.2f}" if row.where else "-"
    attempt = str(row.attempt) if row.attempt else "-"
    words = f"AT RISK {age(row.at_risk_s)}: {row.at_risk}" if row.at_risk else row.detail
    return (clean(row.name), row.state, attempt, step, durable, clean(row.where) or "-", rate,
            f"{row.spent_usd:.2f}", since, words[:100 if row.at_risk else 60])  # fmt: skip


def age(seconds: float) -> str:
    """``12s``, ``5m``, ``3h``, ``2d``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"
