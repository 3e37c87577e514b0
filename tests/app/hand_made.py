"""Facts made by hand, as a reader of a store would have put them together, and rows as the lines they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.style import Style
from vl_agent.protocol import CheckpointPolicy, Event, Head, HeadState, Kept, Market, RunSpec

from vl_tui.app import theme
from vl_tui.app.draw import Row, strip
from vl_tui.app.facts import Facts, RunFacts
from vl_tui.domain.box import Offer
from vl_tui.domain.timeline import fold

NOW = 1_800_000_000.0
"""The moment of every picture here, in unix seconds."""
SIZES = [(80, 24), (160, 50), (60, 15)]
LOOK = theme.load()


def event(before_s: float, kind: str, epoch: int = 0, **fields: Any) -> Event:
    """Something that happened so many seconds before ``NOW``."""
    return Event(NOW - before_s, kind, epoch, fields)


def attempt(
    number: int, began_s: float, *, steps: Sequence[int] = (), every_s: float = 10.0, resumed: int | None = None,
    provider: str = "nimbus", place: str = "east", market: Market = "spot", usd_hour: float = 0.42, total: int = 1000,
) -> list[Event]:  # fmt: skip
    """An attempt on box ``number``: asked for, trained the steps, each tenth of them durable."""
    where = {"launch": number, "provider": provider, "place": place, "market": market, "usd_hour": usd_hour}
    found = [
        event(began_s, "launched", why="submit", words="", **where),
        event(began_s - 20, "attempt", number, why="submit", **where),
        event(began_s - 21, "claimed", number, launch=number, box="b"),
        event(began_s - 22, "restored", number, step=resumed, source="store"),
        event(began_s - 25, "started", number, pid=7, command="x"),
    ]
    for index, step in enumerate(steps):
        at = began_s - 30 - index * every_s
        found.append(event(at, "step", number, step=step, loss=2.5 - step / 1000, total=total))
        if step % 10 == 0:
            found.append(event(at - 0.5, "saved", number, step=step, name="x", bytes=1 << 20, took_s=0.2))
            found.append(event(at - 1.0, "durable", number, step=step, manifest="m", bytes=3 << 20, sent=1, took_s=1.5))
    return found


def lost(number: int, before_s: float, reason: str = "preempted") -> Event:
    return event(before_s, "launch_ended", launch=number, reason=reason, detail="its provider took it")


def box(number: int, **more: Any) -> dict[str, Any]:
    """A box as the controller's view tells it."""
    return {
        "launch": number, "box": f"vl-mine-{number}", "box_id": f"i-{number}", "provider": "nimbus", "place": "east",
        "market": "spot", "usd_hour": 0.42, "state": "running", "phase": "training", "detail": "", "link": "attached",
        "given_up": "", "ssh": {"host": "127.0.0.1", "port": 22}, "host_keys": [],
    } | more  # fmt: skip


def run(
    name: str = "char-lm", events: Sequence[Event] = (), *, state: HeadState = "running", epoch: int = 1,
    boxes: Sequence[Mapping[str, Any]] = (), detail: str = "", deadline: float | None = None,
    budget: float | None = None, durable: int | None = None, market: Market = "spot", **view: Any,
) -> RunFacts:  # fmt: skip
    """A run at its attempt ``epoch``; further arguments go into the controller's view of it."""
    kept = None if durable is None else Kept(durable, epoch, "m")
    head = Head(epoch, "t/n", 1, epoch, state, kept, (), 5, "n", detail)
    spec = RunSpec(
        name, "mine", "true", CheckpointPolicy("ckpt"), gpu="A100:1", market=market, deadline=deadline,
        budget_usd=budget,
    )  # fmt: skip
    told = {"verdict": "alive", "usd_hour": 0.42, "spent_usd": 1.25, "boxes": list(boxes)} | view
    return RunFacts(name, spec, head, fold(events), told, NOW - 1)


def training(name: str = "char-lm", **more: Any) -> RunFacts:
    """The usual: one attempt, half an hour old, that trains and saves."""
    events = attempt(1, 1800, steps=range(1, 175))
    return run(name, events, boxes=[box(1)], durable=170, **more)


def many_attempts(name: str = "char-lm", count: int = 12) -> RunFacts:
    """Lost again and again, each time at another place."""
    events: list[Event] = []
    for number in range(1, count + 1):
        began = (count - number + 1) * 600.0
        first = (number - 1) * 20
        events += attempt(number, began, steps=range(first + 1, first + 31), place=f"zone-{number}", resumed=first)
        if number < count:
            events.append(lost(number, began - 550))
    return run(name, events, epoch=count, boxes=[box(count, place=f"zone-{count}")], durable=count * 20)


def offer(place: str = "east", market: Market = "spot", usd_hour: float = 0.42, **more: Any) -> Offer:
    provider = more.pop("provider", "nimbus")
    gpu = more.pop("gpu", "A100:1")
    key = f"{provider}/{place}/{gpu}/{market}"
    return Offer(key, provider, place, market, gpu, usd_hour, more.pop("available", "high"), NOW - 9, **more)


OFFERS = (
    offer("east"), offer("west", usd_hour=0.47), offer("north", usd_hour=0.39, provider="basalt"),
    offer("east", "on_demand", 1.29), offer("west", "on_demand", 1.35),
    offer("full", usd_hour=0.10, available="none", note="no capacity now"),
)  # fmt: skip


def facts(*runs: RunFacts, **more: Any) -> Facts:
    """What a reader that works has read a second ago."""
    usual = {"controller": "on this host", "read_at": NOW - 1, "view_at": NOW - 1, "offers": OFFERS}
    return replace(Facts(runs=runs), **(usual | more))


def lines(rows: Sequence[Row], width: int, *, ascii_only: bool = False) -> list[str]:
    """The rows as a terminal shows them, each of them exactly ``width`` cells."""
    look = replace(LOOK, ascii=ascii_only)
    found = []
    for one in rows:
        line = strip(one, width, look, Style())
        assert sum(segment.cell_length for segment in line) == width, line.text
        found.append(line.text)
    return found


def picture(rows: Sequence[Row], width: int, **more: Any) -> str:
    return "\n".join(lines(rows, width, **more))
