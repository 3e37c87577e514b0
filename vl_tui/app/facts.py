"""What the screens show, as one frozen value: runs, offers, and how old that knowledge is. Plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vl_agent.protocol import ENDED_STATES, Head, RunSpec

from vl_tui.domain.box import Offer
from vl_tui.domain.timeline import Timeline

STALE_S = 10.0
"""Facts older than that are marked with their age."""
SILENT_S = 30.0
"""A controller that has published nothing for so long is said to be silent; it publishes at least every 10 s."""


@dataclass(frozen=True)
class RunFacts:
    """One run, as the store and the controller's view tell it."""

    name: str
    spec: RunSpec | None
    head: Head
    timeline: Timeline = field(default_factory=Timeline)
    view: Mapping[str, Any] = field(default_factory=dict)
    """The controller's words about it (``fleet/view.json``), believed for what they are: a file."""
    view_at: float = 0.0
    """Unix seconds at which that view was first seen here; 0: there is none."""

    @property
    def live(self) -> bool:
        return self.head.state not in ENDED_STATES

    @property
    def boxes(self) -> Sequence[Mapping[str, Any]]:
        found = self.view.get("boxes")
        return [box for box in found if isinstance(box, dict)] if isinstance(found, list) else []

    @property
    def coming(self) -> bool:
        """Whether a box is on its way to the next attempt."""
        return any(number(box, "launch") > self.head.launch and not box.get("given_up") for box in self.boxes)

    def number(self, name: str) -> float | None:
        """A number of the view."""
        return number(self.view, name) if name in self.view else None

    def text(self, name: str) -> str:
        return text(self.view, name)


@dataclass(frozen=True)
class Facts:
    """Everything, at one moment. Times in unix seconds by this process's own clock."""

    runs: tuple[RunFacts, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Runs that the store holds and nobody understands: name and why."""
    offers: tuple[Offer, ...] = ()
    alerts: tuple[tuple[float, str], ...] = ()
    """When and what the controller wants a person to know, oldest first."""
    view_at: float = 0.0
    """When what the controller publishes was first seen here as it is; 0: there is none."""
    controller: str = "none"
    """``on this host``, ``on HOST``, ``none``."""
    controller_error: str = ""
    """Why none could be started."""
    read_at: float = 0.0
    """When the store was last read whole; 0: never."""
    store_error: str = ""
    """Why it could not be read since."""
    failing_since: float = 0.0

    @property
    def first(self) -> bool:
        """Nothing was read yet."""
        return self.read_at == 0.0

    def stale(self, now: float) -> bool:
        return bool(self.store_error) or now - self.read_at > STALE_S

    def silent(self, now: float) -> bool:
        """Whether live runs have a controller that should talk and does not."""
        return self.view_at > 0 and now - self.view_at > SILENT_S and any(run.live for run in self.runs)

    def run(self, name: str) -> RunFacts | None:
        return next((run for run in self.runs if run.name == name), None)


def number(body: Mapping[str, Any], name: str) -> float:
    """A finite number of a file's map; 0 where it is none."""
    value = body.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return 0.0
    try:
        return float(value) if math.isfinite(value) else 0.0
    except OverflowError:  # an integer that no float holds
        return 0.0


def text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) else ""
