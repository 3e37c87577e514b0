"""What the witnesses say about one box, how old their word is, and the verdict that follows.

Ages are seconds by the observer's own clock since it saw the thing change; silence that the observer could not have
heard is taken out before it comes here (``vl_tui.controller.witness``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vl_agent.protocol import Cause, Market

from vl_tui.domain.box import BoxState

VerdictName = Literal["alive", "suspect", "link_only", "at_risk", "supervisor_dead", "lost"]

TAKEN: tuple[BoxState, ...] = ("preempted", "gone", "stopped")
"""A provider's words that end a box at once: it does not come back."""

SUSPECT = 0.4
"""Silence past this share of the grace is said on screen; nothing is done about it."""


@dataclass(frozen=True)
class Evidence:
    """One box's witnesses now."""

    ssh_moved_s: float
    """Since the supervisor's counter was last seen to move over SSH."""
    ssh_heard_s: float
    """Since anything came over SSH: an attach that answers although the counter stands still."""
    store_moved_s: float | None
    """Since the beat in the store was seen to change; None: the box holds no epoch, so there is none."""
    word: BoxState
    """The provider's."""
    word_s: float
    word_cause: str = ""
    market: Market = "spot"
    store_error: str = ""
    """The box's own complaint that it can't reach the store."""
    at_risk: str = ""
    """All that its agent says puts it at risk, the store among it."""
    at_risk_s: float = 0.0


@dataclass(frozen=True)
class Verdict:
    name: VerdictName
    cause: Cause
    words: str
    """One line for a person."""
    final: bool = False
    """The provider says so: it can't come back, so nobody waits for it."""

    @property
    def lost(self) -> bool:
        return self.name == "lost"


ALIVE = Verdict("alive", "unknown", "trains")


def judge(seen: Evidence, grace_s: float) -> Verdict:
    """The table of design, "Detection". There are six cases:

    1. the provider says that the box was taken, is gone or stopped: lost at once;
    2. the counter moves over SSH: alive, or at risk where it does not reach the store or says so itself;
    3. it is silent over SSH but its beat in the store moves: the link only;
    4. both are silent past the grace, but the attach on the box answers: the supervisor is dead;
    5. both are silent past the grace and nothing answers: lost;
    6. not silent for long enough: suspect, then alive.
    """
    quiet = SUSPECT * grace_s
    ssh, store = seen.ssh_moved_s, seen.store_moved_s
    silent = ssh > grace_s and (store is None or store > grace_s)
    if seen.word in TAKEN:
        return _taken(seen)
    if ssh <= quiet:
        if seen.at_risk:
            return Verdict("at_risk", "unknown", f"AT RISK {_span(seen.at_risk_s)}: {seen.at_risk}")
        if seen.store_error or (store is not None and store > grace_s):
            why = seen.store_error or f"its beat in the store is {store:.0f} s old"
            return Verdict("at_risk", "unknown", f"AT RISK: trains but can't become durable: {why}")
        return ALIVE
    if store is not None and store <= quiet:
        return Verdict("link_only", "link_only", f"SSH silent for {ssh:.0f} s, but its beat in the store moves")
    if silent and seen.ssh_heard_s <= grace_s:
        return Verdict("supervisor_dead", "host_fault", f"the box answers, its supervisor stands still for {ssh:.0f} s")
    if silent:
        return Verdict("lost", "host_fault", f"{_silence(seen)} past the grace of {grace_s:g} s")
    return Verdict("suspect", "unknown", _silence(seen))


def _taken(seen: Evidence) -> Verdict:
    preempted = seen.word == "preempted" or (seen.word == "stopped" and seen.market == "spot")
    words = f"provider says {seen.word}" + (f": {seen.word_cause}" if seen.word_cause else "")
    return Verdict("lost", "preempted" if preempted else "host_fault", words, final=True)


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f}s"
    return f"{seconds // 60:.0f}m" if seconds < 3600 else f"{seconds / 3600:.1f}h"


def _silence(seen: Evidence) -> str:
    store = "" if seen.store_moved_s is None else f", store beat silent for {seen.store_moved_s:.0f} s"
    return f"SSH silent for {seen.ssh_moved_s:.0f} s{store}"


def statements(seen: Evidence) -> list[Mapping[str, Any]]:
    """The evidence as the journal and the screen show it: ``[{witness, says, age_s}]``."""
    moved = {True: "moves", False: "silent"}
    rows: list[Mapping[str, Any]] = [
        {"witness": "ssh", "says": moved[seen.ssh_moved_s < 2.5], "age_s": round(seen.ssh_moved_s, 1)},
        {"witness": "provider", "says": seen.word, "age_s": round(seen.word_s, 1)},
    ]
    if seen.store_moved_s is not None:
        says = moved[seen.store_moved_s < 5]
        rows.insert(1, {"witness": "store", "says": says, "age_s": round(seen.store_moved_s, 1)})
    return rows
