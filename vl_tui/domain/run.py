"""A run as its records in the store and its witnesses show it: what every decision about it is made from.

Plain data. Built by the controller (``vl_tui.controller.keeper``), by tests and by whoever asks "what if".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vl_agent.protocol import ENDED_STATES, Beat, Head, Intent, LaunchEnd, LaunchRecord, RunSpec

from vl_tui.domain.box import Box, Offer
from vl_tui.domain.evidence import ALIVE, Verdict

Asked = Literal["no", "asking", "unsure", "answered", "refused"]
"""What this controller knows of a launch's request at the provider. unsure: the reply was lost; refused: it said no."""


@dataclass(frozen=True)
class LaunchView:
    """One box asked for: its records, what its provider has by its name, and its witnesses."""

    record: LaunchRecord
    end: LaunchEnd | None = None
    fresh: bool = True
    """The record is this controller's own: nobody else can have asked for the box already."""
    asked: Asked = "no"
    refusal: str = ""
    """The provider's words where it refused."""
    no_capacity: bool = False
    """It refused for want of capacity, not because something is wrong."""
    boxes: tuple[Box, ...] = ()
    """Every living box of its name, as the provider last said."""
    settled: bool = True
    """The provider's eventual consistency has passed: what is not listed now is not there."""
    age_s: float = 0.0
    """Since this controller first saw the record, by its own clock."""
    boot_s: float = 60.0
    verdict: Verdict = ALIVE
    attached: bool = False
    """The channel to its agent answers."""
    beat: Beat | None = None
    """The newest seen, over SSH or in the store."""
    link_refusal: str = ""
    """Why the box will not be talked to again (its host key changed, the login is refused)."""
    stopping_s: float | None = None
    """Since this controller told it to save and stop; None: it did not."""
    starting_s: float = 0.0
    """Since this controller saw its epoch started and not claimed."""
    relinked_s: float | None = None
    """Since a new supervisor was started in the place of a dead one; None: none was."""
    epochless_s: float = 0.0
    """Since its agent says that it waits for an epoch, though the head says that it claimed one: a new supervisor."""
    ended_s: float | None = None
    """Since this controller saw the end record."""
    ending: bool = False
    """Its boxes are being ended just now, or could not be and are tried again later."""
    terminated: bool = False
    """Its box is known to be gone."""

    @property
    def number(self) -> int:
        return self.record.number

    @property
    def live(self) -> bool:
        return self.end is None

    @property
    def noticed(self) -> bool:
        """Its provider will take it."""
        return self.beat is not None and self.beat.notice_deadline is not None

    @property
    def prepared(self) -> bool:
        """Ready to be given an epoch. A supervisor that holds one, or has ended, is not."""
        return self.attached and self.beat is not None and self.beat.phase == "prepared"


@dataclass(frozen=True)
class Progress:
    """How far a run is and how quick."""

    step: int | None = None
    """The newest step seen."""
    durable_step: int | None = None
    total_steps: int | None = None
    s_per_step: float | None = None
    """Measured while it trained."""
    save_every_s: float = 300.0
    """Between durable checkpoints: half of it is lost with a box, on average."""

    @property
    def remaining_s(self) -> float | None:
        """Seconds of training left from the newest durable step; None: not known."""
        if self.total_steps is None or self.s_per_step is None:
            return None
        return max(0, self.total_steps - (self.durable_step or 0)) * self.s_per_step


@dataclass(frozen=True)
class Exclusion:
    """Why a place is not used for a while."""

    weight: float
    """1 right after the trouble, halving with time."""
    failures: int
    """Recent ones at this place."""
    since_s: float
    why: str


@dataclass(frozen=True)
class RunView:
    spec: RunSpec
    head: Head
    launches: tuple[LaunchView, ...] = ()
    """By number."""
    intents: tuple[Intent, ...] = ()
    """Not answered yet, oldest first."""
    progress: Progress = Progress()
    attempted: int = 0
    """The newest launch that was ever given an epoch; the head forgets it when a person ends or rolls back the run."""
    missing_secrets: tuple[str, ...] = ()
    no_launch_for_s: float = 0.0
    """Back-off after launches that came to nothing: seconds until the next may be tried."""
    stop_wanted_s: float | None = None
    """Since this controller saw that the run must stop; None: it saw no such thing."""
    closed: bool = False
    """Its end is journaled."""

    @property
    def ended(self) -> bool:
        return self.head.state in ENDED_STATES

    @property
    def live(self) -> tuple[LaunchView, ...]:
        return tuple(launch for launch in self.launches if launch.live)

    @property
    def holder(self) -> LaunchView | None:
        """The launch whose box holds the head's epoch, as long as it has not been given up."""
        if self.head.state not in ("starting", "running", "released"):
            return None
        return next((launch for launch in self.live if launch.number == self.head.launch), None)

    @property
    def last_attempt(self) -> int:
        return max(self.attempted, self.head.launch)

    @property
    def spares(self) -> tuple[LaunchView, ...]:
        """Live launches on their way to the next attempt: numbers only grow, so they are newer than the last one."""
        return tuple(launch for launch in self.live if launch.number > self.last_attempt)

    @property
    def former(self) -> tuple[LaunchView, ...]:
        """Live launches whose epoch is over: another was started, or the run was rolled back."""
        holder = self.holder
        return tuple(launch for launch in self.live if launch.number <= self.last_attempt and launch is not holder)

    @property
    def rolled_back(self) -> bool:
        """A person went back to an older checkpoint, and no attempt has begun from there."""
        return self.head.state == "waiting" and self.head.epoch > 0

    @property
    def escalated(self) -> bool:
        """A person moved it to on-demand: it stays there."""
        return any(launch.record.why == "escalate" for launch in self.launches)


@dataclass(frozen=True)
class Facts:
    """What is true for every run of the fleet."""

    store_reached: bool = True
    offers: Sequence[Offer] = ()
    offers_known: bool = True
    """Every provider has answered, or failed to, at least once."""
    exclusions: Mapping[str, Exclusion] = field(default_factory=dict)
    """By ``place_key``."""
    busy: frozenset[str] = frozenset()
    """Offers of owned boxes that a live launch of some run occupies."""


def place_key(provider: str, place: str) -> str:
    return f"{provider}/{place}"
