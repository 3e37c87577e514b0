"""What the controller can do to a run. ``decide`` returns these, ``reconcile`` carries them out.

Each is idempotent: done twice, or by another controller after a crash, it ends in the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vl_agent.protocol import Intent, LaunchEndReason, LaunchWhy

from vl_tui.domain.box import Offer


@dataclass(frozen=True)
class Launch:
    """Write the record of the next launch; the provider is asked by ``Ask`` once that stands."""

    offer: Offer
    why: LaunchWhy
    words: str
    """Why this offer, for the journal and "why here?"."""
    rejected: tuple[Mapping[str, str], ...] = ()
    """``{offer, why}`` of the others."""
    intent: str = ""


@dataclass(frozen=True)
class Ask:
    """Ask the provider for the launch's box: found by its name first, so asked twice is one box."""

    launch: int


@dataclass(frozen=True)
class Start:
    """Give the launch the next epoch. From here the attempt before is fenced."""

    launch: int
    why: LaunchWhy | Literal["restart"]


@dataclass(frozen=True)
class SendStart:
    """Tell the box the token of the epoch that was started for it."""

    launch: int


@dataclass(frozen=True)
class SendStop:
    """Tell the box to save, make it durable and release the head."""

    launch: int
    why: str


@dataclass(frozen=True)
class Relink:
    """Drop the channel to the box and begin anew, which starts a supervisor where none lives."""

    launch: int


@dataclass(frozen=True)
class EndLaunch:
    """Write the end record: this box never gets an epoch again, and may be terminated."""

    launch: int
    reason: LaunchEndReason
    detail: str


@dataclass(frozen=True)
class Terminate:
    """End every box of a launch that has an end record."""

    launch: int


@dataclass(frozen=True)
class End:
    """End the run in the head, which fences whoever holds it."""

    state: Literal["stopped", "failed"]
    detail: str


@dataclass(frozen=True)
class Close:
    """Journal that the run ended, and what it cost."""


@dataclass(frozen=True)
class Pin:
    """Carry out a person's pin or unpin, and answer it."""

    intent: Intent


@dataclass(frozen=True)
class Rollback:
    intent: Intent


@dataclass(frozen=True)
class Answer:
    """Answer a person's intent, once for ever."""

    intent: Intent
    result: Literal["done", "ignored", "refused"]
    detail: str


@dataclass(frozen=True)
class Wait:
    """Nothing to be done now, and why: shown, and journaled where the run stands still for it."""

    why: str
    rejected: tuple[Mapping[str, str], ...] = ()
    stands: bool = False
    """No box works for the run, and none is on its way."""


Action = (
    Launch | Ask | Start | SendStart | SendStop | Relink | EndLaunch | Terminate | End | Close | Pin | Rollback
    | Answer | Wait
)  # fmt: skip
