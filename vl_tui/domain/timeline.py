"""A run's history, folded from its journals: attempts, what each did when, what it lost, what it cost. Pure.

Boxes wrote most of what is folded here, so every field is looked at before it is believed; an event that makes no sense
is left out, and nothing raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vl_agent.protocol import Event

State = Literal["provision", "restore", "repeat", "train", "save"]
MarkKind = Literal["durable", "saved", "notice", "lost", "migrated", "escalated", "finished", "stopped"]
LOST_REASONS = ("lost", "preempted", "failed", "prepare_failed")


@dataclass(frozen=True)
class Segment:
    """A stretch in one state; ``end`` None: it goes on."""

    state: State
    start: float
    end: float | None


@dataclass(frozen=True)
class Mark:
    kind: MarkKind
    at: float
    step: int | None = None


@dataclass(frozen=True)
class Attempt:
    """One stretch of the run on one box. Times in unix seconds by the writers' clocks, for showing only."""

    epoch: int
    launch: int = 0
    provider: str = ""
    place: str = ""
    market: str = ""
    usd_hour: float = 0.0
    asked_at: float | None = None
    claimed_at: float | None = None
    started_at: float | None = None
    repeat_until: float | None = None
    """Until then it did steps that an earlier attempt had done."""
    heard_at: float | None = None
    """The last word of its agent."""
    ended_at: float | None = None
    end: str = ""
    """The launch's end reason, or the agent's own last word."""
    resumed_step: int = 0
    last_step: int | None = None
    durable_step: int | None = None
    repeated: int = 0
    lost: int | None = None
    """Steps that a later attempt had to do again; None: not known, or none is lost yet."""
    marks: tuple[Mark, ...] = ()

    @property
    def live(self) -> bool:
        return self.ended_at is None

    @property
    def began_at(self) -> float | None:
        """When its box was asked for; where nobody told that, when it claimed its epoch."""
        return self.asked_at if self.asked_at is not None else self.claimed_at

    @property
    def steps(self) -> int:
        return max(0, (self.last_step or self.resumed_step) - self.resumed_step)

    def segments(self, now: float) -> list[Segment]:
        """What it was doing, stretch by stretch."""
        end = self.ended_at
        points: list[tuple[State, float | None]] = [
            ("provision", self.asked_at),
            ("restore", self.claimed_at),
            ("repeat" if self.repeat_until else "train", self.started_at),
        ]
        if self.repeat_until is not None:
            points.append(("train", self.repeat_until))
        known = [(state, at) for state, at in points if at is not None]
        found = []
        for index, (state, at) in enumerate(known):
            until = known[index + 1][1] if index + 1 < len(known) else end
            if until is None or until > at:
                found.append(Segment(state, at, until))
        return found

    def seconds(self, now: float) -> float:
        """From asking for the box to its end, or to now."""
        start = self.began_at
        return max(0.0, (now if self.ended_at is None else self.ended_at) - start) if start is not None else 0.0


@dataclass(frozen=True)
class Timeline:
    attempts: tuple[Attempt, ...] = ()
    provisioning: tuple[Attempt, ...] = ()
    """Boxes asked for that hold no epoch (yet)."""
    step: int | None = None
    loss: float | None = None
    total: int | None = None
    step_at: float | None = None
    durable_step: int | None = None
    durable_at: float | None = None
    saved_step: int | None = None
    saved_at: float | None = None
    verified: int = 0
    mismatched: int = 0
    steps_per_s: float | None = None
    ended: str = ""
    notices: int = 0
    recent: tuple[Event, ...] = ()
    """The newest events worth a person's line, oldest first."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Attempts by how they ended."""

    @property
    def repeated(self) -> int:
        return sum(attempt.repeated for attempt in self.attempts)

    @property
    def start(self) -> float | None:
        times = [attempt.began_at for attempt in (*self.attempts, *self.provisioning)]
        return min((at for at in times if at is not None), default=None)


WORTH_A_LINE = (
    "submitted", "launched", "attempt", "restored", "started", "durable", "notice", "verdict", "commit_refused",
    "fenced", "launch_ended", "bad_checkpoint", "at_risk", "not_at_risk", "exited", "intent", "waiting", "verified",
    "run_ended", "controller", "warning", "moved_aside", "migrated", "escalated", "credentials", "cadence",
    "cadence_advice", "health", "hang",
)  # fmt: skip
_RECENT = 200


class Fold:
    """Takes events in as they are read (in any order) and gives the timeline; ``epochs`` are folded by their own."""

    def __init__(self) -> None:
        self._launched: dict[int, Event] = {}
        self._ended: dict[int, Event] = {}
        self._attempts: dict[int, Attempt] = {}
        self._marks: dict[int, list[Mark]] = {}
        self._steps: dict[int, dict[int, float]] = {}
        self._first_repeat_end: dict[int, float] = {}
        self._worth: list[Event] = []
        self._line = Timeline()

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            handle = getattr(self, f"_on_{event.kind}", None)
            if handle is not None:
                handle(event)
            if event.kind in WORTH_A_LINE:
                self._worth.append(event)

    def timeline(self) -> Timeline:
        epochs = sorted(self._attempts)
        top = -1
        attempts: list[Attempt] = []
        for epoch in epochs:
            attempts.append(self._finished(self._attempts[epoch], top))
            top = max(top, attempts[-1].last_step or -1)
        for index, attempt in enumerate(attempts[:-1]):
            if not attempt.live:
                lost = max(0, (attempt.last_step or 0) - attempts[index + 1].resumed_step)
                attempts[index] = replace(attempt, lost=lost)
        held = {attempt.launch for attempt in attempts}
        waiting = [self._asked_only(n) for n in sorted(self._launched) if n not in held and n not in self._ended]
        counts: dict[str, int] = {}
        for attempt in attempts:
            if attempt.end:
                counts[attempt.end] = counts.get(attempt.end, 0) + 1
        self._worth = sorted(self._worth, key=lambda event: event.t)[-_RECENT:]
        return replace(
            self._line, attempts=tuple(attempts), provisioning=tuple(waiting), recent=tuple(self._worth),
            counts=counts, steps_per_s=self._speed(epochs[-1] if epochs else 0),
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------ the controller's

    def _on_launched(self, event: Event) -> None:
        number = _int(event, "launch")
        if number is not None:
            self._launched[number] = event

    def _on_attempt(self, event: Event) -> None:
        number = _int(event, "launch") or 0
        asked = self._launched.get(number)
        self._update(
            event.epoch, launch=number, provider=_text(event, "provider"), place=_text(event, "place"),
            market=_text(event, "market"), usd_hour=_float(event, "usd_hour") or 0.0,
            asked_at=asked.t if asked else event.t,
        )  # fmt: skip

    def _on_launch_ended(self, event: Event) -> None:
        number, reason = _int(event, "launch"), _text(event, "reason")
        if number is None:
            return
        self._ended[number] = event
        kinds: Mapping[str, MarkKind] = {
            "migrated": "migrated", "escalated": "escalated", "finished": "finished", "stopped": "stopped",
            "budget": "stopped",
        }  # fmt: skip
        for epoch, attempt in self._attempts.items():
            if attempt.launch == number and attempt.live:
                self._update(epoch, ended_at=event.t, end=reason)
                self._mark(epoch, Mark(kinds.get(reason, "lost"), event.t))

    def _on_verified(self, event: Event) -> None:
        self._line = replace(
            self._line,
            verified=self._line.verified + (_int(event, "repeated") or 0) - (_int(event, "mismatched") or 0),
            mismatched=self._line.mismatched + (_int(event, "mismatched") or 0),
        )

    def _on_run_ended(self, event: Event) -> None:
        self._line = replace(self._line, ended=_text(event, "state"))

    # ---------------------------------------------------------------------------------------------------- the agent's

    def _on_claimed(self, event: Event) -> None:
        self._heard(event, claimed_at=event.t, launch=_int(event, "launch") or 0)

    def _on_restored(self, event: Event) -> None:
        self._heard(event, resumed_step=_int(event, "step") or 0)

    def _on_started(self, event: Event) -> None:
        self._heard(event, started_at=event.t)

    def _on_step(self, event: Event) -> None:
        step = _int(event, "step")
        if step is None:
            return
        self._steps.setdefault(event.epoch, {})[step] = event.t
        before = self._attempts.get(event.epoch)
        if before is None or before.last_step is None or step > before.last_step:
            self._heard(event, last_step=step)
        if event.epoch >= max(self._attempts, default=0):
            total = _int(event, "total")
            self._line = replace(
                self._line, step=step, loss=_float(event, "loss"), step_at=event.t, total=total or self._line.total
            )

    def _on_saved(self, event: Event) -> None:
        step = _int(event, "step")
        self._heard(event)
        self._mark(event.epoch, Mark("saved", event.t, step))
        if self._line.saved_at is None or event.t > self._line.saved_at:
            self._line = replace(self._line, saved_step=step, saved_at=event.t)
        attempt = self._attempts[event.epoch]
        if step is not None and event.epoch not in self._steps and step > (attempt.last_step or 0):
            self._update(event.epoch, last_step=step)  # a script that tells no steps
            if event.epoch >= max(self._attempts):
                self._line = replace(self._line, step=step, step_at=event.t)

    def _on_durable(self, event: Event) -> None:
        step = _int(event, "step")
        self._heard(event, durable_step=step)
        self._mark(event.epoch, Mark("durable", event.t, step))
        if self._line.durable_at is None or event.t > self._line.durable_at:
            self._line = replace(self._line, durable_step=step, durable_at=event.t)

    def _on_notice(self, event: Event) -> None:
        self._heard(event)
        self._mark(event.epoch, Mark("notice", event.t))
        self._line = replace(self._line, notices=self._line.notices + 1)

    def _on_ended(self, event: Event) -> None:
        self._heard(event)
        attempt = self._attempts[event.epoch]
        if attempt.live and attempt.launch == 0:  # `vl-agent run`: no controller tells its end
            state = _text(event, "state")
            self._update(event.epoch, ended_at=event.t, end=state)
            self._mark(event.epoch, Mark("finished" if state == "finished" else "lost", event.t))

    # --------------------------------------------------------------------------------------------------------- inside

    def _heard(self, event: Event, **fields: Any) -> None:
        before = self._attempts.get(event.epoch)
        heard = max(event.t, before.heard_at or 0.0) if before else event.t
        self._update(event.epoch, heard_at=heard, **fields)

    def _update(self, epoch: int, **fields: Any) -> None:
        self._attempts[epoch] = replace(self._attempts.get(epoch, Attempt(epoch)), **fields)

    def _mark(self, epoch: int, mark: Mark) -> None:
        marks = self._marks.setdefault(epoch, [])
        if mark not in marks:
            marks.append(mark)

    def _finished(self, attempt: Attempt, top: int) -> Attempt:
        """With what only the other attempts tell: which of its steps were done before."""
        steps = self._steps.get(attempt.epoch, {})
        again = [at for step, at in steps.items() if step <= top]
        ended = self._ended.get(attempt.launch)
        if ended is not None and attempt.live:
            attempt = replace(attempt, ended_at=ended.t, end=_text(ended, "reason"))
        marks = tuple(sorted(self._marks.get(attempt.epoch, ()), key=lambda mark: mark.at))
        return replace(attempt, repeated=len(again), repeat_until=max(again, default=None), marks=marks)

    def _asked_only(self, number: int) -> Attempt:
        event = self._launched[number]
        return Attempt(
            epoch=0, launch=number, provider=_text(event, "provider"), place=_text(event, "place"),
            market=_text(event, "market"), usd_hour=_float(event, "usd_hour") or 0.0, asked_at=event.t,
        )  # fmt: skip

    def _speed(self, epoch: int) -> float | None:
        """Steps a second over the last steps of the newest attempt; over its saves where its script tells no steps."""
        saves = {mark.step: mark.at for mark in self._marks.get(epoch, ()) if mark.kind == "saved" and mark.step}
        steps = sorted((self._steps.get(epoch) or saves).items())[-50:]
        if len(steps) < 3:
            return None
        (first, began), (last, ended) = steps[0], steps[-1]
        return (last - first) / (ended - began) if ended > began else None


def fold(events: Iterable[Event]) -> Timeline:
    """The whole timeline at once."""
    folding = Fold()
    folding.add(events)
    return folding.timeline()


def _int(event: Event, name: str) -> int | None:
    value = event.fields.get(name)
    return value if type(value) is int and abs(value) < 2**53 else None


def _float(event: Event, name: str) -> float | None:
    value = event.fields.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(event: Event, name: str) -> str:
    value = event.fields.get(name)
    return value if isinstance(value, str) else ""
