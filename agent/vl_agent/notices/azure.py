"""Azure's scheduled events, polled. The first answer may take two minutes: it switches the service on.

An event is acknowledged, which lets it happen at once, only when the save is durable, and only when it concerns this
machine alone: an acknowledgement counts for every machine that the event names.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from vl_agent import direct
from vl_agent.direct import NoAnswer
from vl_agent.notices import Ear, Hearing, Notice, jittered

DEFAULT = "http://169.254.169.254"
POLL_S = 1.0
"""Microsoft's advice."""
FIRST_S = 150.0
EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_HEADERS = {"Metadata": "true"}
_ENDS = ("Preempt", "Terminate", "Reboot", "Redeploy")
"""Events after which nothing of this boot runs any more. Freeze stands still for some seconds."""


@dataclass(frozen=True)
class Event:
    id: str
    type: str
    resources: tuple[str, ...]
    deadline: float | None
    """Unix seconds; None once it has started."""

    @property
    def ends(self) -> bool:
        return self.type in _ENDS


class Acknowledgement:
    """``durable`` is set by who saved, once all of it is in the store; ``sent``, then, by who watches. ``wanted``: an
    event came that may be acknowledged."""

    def __init__(self) -> None:
        self.wanted = False
        self.durable, self.sent = asyncio.Event(), asyncio.Event()


async def watch(base: str, ear: Ear, acknowledgement: Acknowledgement) -> None:
    """Tell of what comes, for ever."""
    hearing, timeout_s = Hearing("azure", ear), FIRST_S
    told: dict[str, Event] = {}
    name = ""
    acknowledging: asyncio.Task[None] | None = None
    try:
        while True:
            try:
                name = name or await _own_name(base)
                events = await _events(base, name, timeout_s)
            except NoAnswer as error:
                hearing.failed(str(error))
            else:
                hearing.works()
                timeout_s = 5.0
                for event in _news(told, events, ear):
                    if event.resources == (name,) and acknowledging is None:
                        acknowledging = asyncio.create_task(_acknowledge(base, event, acknowledgement))
            await asyncio.sleep(jittered(POLL_S))
    finally:
        if acknowledging is not None:
            acknowledging.cancel()
            await asyncio.gather(acknowledging, return_exceptions=True)


def _news(told: dict[str, Event], events: list[Event], ear: Ear) -> list[Event]:
    """Tell of what is new, and of what is gone without having happened; returns new events that end the box."""
    there = {event.id: event for event in events}
    for known in [event for event in told.values() if event.id not in there]:
        del told[known.id]
        if known.ends and not any(event.ends for event in told.values()):
            ear.withdrawn("azure", f"{known.type} is withdrawn")
    new = [event for event in events if event.id not in told]
    for event in new:
        told[event.id] = event
        if event.ends:
            deadline = time.time() if event.deadline is None else event.deadline
            ear.notice(Notice("azure", deadline, f"scheduled event {event.type}"))
        else:
            ear.advice("azure", f"scheduled event {event.type}: this box stands still for some seconds")
    return [event for event in new if event.ends]


async def _own_name(base: str) -> str:
    reply = await direct.ask(base, "GET", NAME, _HEADERS)
    if reply.status != 200 or not _NAME.fullmatch(reply.text):  # what is kept for good must be one
        raise NoAnswer(f"{base}: tells no name (status {reply.status})")
    return reply.text.casefold()


async def _events(base: str, name: str, timeout_s: float) -> list[Event]:
    """Those that name this machine. Raises ``NoAnswer``."""
    reply = await direct.ask(base, "GET", EVENTS, _HEADERS, timeout_s=timeout_s)
    if reply.status != 200:
        raise NoAnswer(f"{base}: status {reply.status}")
    try:
        rows = json.loads(reply.body)["Events"]
        return [event for row in rows if name in (event := _event(row)).resources]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise NoAnswer(f"{base}: not a list of events") from None


def _event(row: dict[str, Any]) -> Event:
    """Names are compared without case, as Azure does."""
    resources = tuple(sorted({str(name).casefold() for name in row["Resources"]}))
    return Event(str(row["EventId"]), str(row["EventType"])[:20], resources, _unix(row.get("NotBefore")))


def _unix(words: object) -> float | None:
    """``Mon, 24 Nov 2026 02:18:22 GMT`` as unix seconds."""
    try:
        return parsedate_to_datetime(str(words)).timestamp()
    except (ValueError, TypeError, IndexError):
        return None


async def _acknowledge(base: str, event: Event, acknowledgement: Acknowledgement) -> None:
    acknowledgement.wanted = True
    await acknowledgement.durable.wait()
    body = json.dumps({"StartRequests": [{"EventId": event.id}]}).encode()
    for _ in range(3):
        try:
            if (await direct.ask(base, "POST", EVENTS, _HEADERS, body=body)).status == 200:
                break
        except NoAnswer:
            pass
        await asyncio.sleep(jittered(POLL_S))
    acknowledgement.sent.set()
