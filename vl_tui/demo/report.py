"""What happened, from the journals and the fleet's own books: the demo's JSON document. Pure.

Nothing here is the demo's opinion: a figure that the journals do not hold is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vl_agent.protocol import Event

from vl_tui.demo.plan import FaultKind


@dataclass(frozen=True)
class FaultMade:
    """A fault as it was carried out."""

    kind: FaultKind
    at: float
    """Unix seconds: the fault, or the notice's delivery."""
    epoch: int
    """The attempt that it struck."""
    at_step: int | None
    """The newest step seen then; for a script that tells no steps, its newest checkpoint's."""
    box: str
    """The box's name; empty for the controller."""


@dataclass(frozen=True)
class BoxHistory:
    """One box that the fleet ever ran."""

    id: str
    name: str
    alive: bool


def fault_row(fault: FaultMade, events: Sequence[Event], *, steps_known: bool) -> dict[str, Any]:
    """One entry of ``faults``: what it cost, as the journals tell it."""
    return {
        "kind": fault.kind,
        "at_step": fault.at_step,
        "steps_lost": steps_lost(fault, events) if steps_known else None,
        "detect_s": _seconds(fault, detected_at(fault, events)),
        "resume_s": _seconds(fault, resumed_at(fault, events)),
    }


def detected_at(fault: FaultMade, events: Sequence[Event]) -> float | None:
    """When somebody first said so: the agent heard the notice, the controller gave its verdict, or the next controller
    took the run over."""
    for event in by_time(events):
        if event.t < fault.at:
            continue
        if fault.kind == "controller" and event.kind == "controller":
            return event.t
        if fault.kind == "notice" and event.kind == "notice" and event.epoch == fault.epoch:
            return event.t
        if fault.kind in ("kill", "partition") and event.kind == "verdict" and _is_loss(event, fault.epoch):
            return event.t
    return None


def _is_loss(event: Event, epoch: int) -> bool:
    return event.epoch == epoch and event.fields.get("verdict") in ("lost", "supervisor_dead")


def resumed_at(fault: FaultMade, events: Sequence[Event]) -> float | None:
    """When the first step after the fault was run: by the next attempt, or, where the fault took no attempt (the
    controller's), by the one that went on."""
    first = fault.epoch if fault.kind == "controller" else fault.epoch + 1
    times = [e.t for e in events if e.kind == "step" and e.epoch >= first and e.t >= fault.at]
    return min(times, default=None)


def steps_lost(fault: FaultMade, events: Sequence[Event]) -> int | None:
    """Steps that the struck attempt had done when the next one began, and that this next one had to do again."""
    if fault.kind == "controller":
        return 0
    restored = [e for e in events if e.kind == "restored" and e.epoch > fault.epoch]
    if not restored:
        return None
    resumed = min(restored, key=lambda e: e.epoch)
    resumed_step = resumed.fields.get("step") or 0
    done = [
        e.fields["step"]
        for e in events
        if e.kind == "step" and e.epoch == fault.epoch and e.t <= resumed.t and type(e.fields.get("step")) is int
    ]
    return max(0, max(done, default=resumed_step) - resumed_step)


def exact(event: Event) -> bool:
    """A step as the script told it: not read in its output, where some are left out and losses are rounded."""
    return event.kind == "step" and "source" not in event.fields


def repeated_steps(events: Iterable[Event]) -> tuple[int, int]:
    """(steps done again with exactly the same loss, with another loss), over every attempt's own journal."""
    by_step: dict[int, dict[int, Any]] = {}
    for event in events:
        if exact(event) and isinstance(event.fields.get("loss"), float):
            by_step.setdefault(event.fields["step"], {})[event.epoch] = event.fields["loss"]
    same = other = 0
    for losses in by_step.values():
        first, *again = (losses[epoch] for epoch in sorted(losses))
        same += sum(loss == first for loss in again)
        other += sum(loss != first for loss in again)
    return same, other


def providers_used(events: Iterable[Event]) -> list[str]:
    return sorted({str(e.fields.get("provider", "")) for e in events if e.kind == "attempt"} - {""})


def attempts(events: Iterable[Event]) -> int:
    """Epochs in which a box claimed the run and started its command."""
    return len({e.epoch for e in events if e.kind == "started"})


def attempts_lost_to_controller(
    faults: Sequence[FaultMade], events: Sequence[Event], restarts: Sequence[float] = ()
) -> int:
    """Attempts that ended after a controller's death and before the next thing that was made to go wrong (another
    fault, or a restart of the whole demo): the attempt under way must be the one that this strikes, or the last."""
    lost = 0
    ordered = sorted(faults, key=lambda fault: fault.at)
    last_epoch = max((e.epoch for e in events if e.kind == "started"), default=0)
    for fault, following in zip(ordered, [*ordered[1:], None], strict=True):
        until = following.at if following else float("inf")
        if fault.kind == "controller" and not any(fault.at < t < until for t in restarts):
            end = following.epoch if following else last_epoch
            lost += max(0, end - fault.epoch)
    return lost


def double_launches(history: Iterable[BoxHistory]) -> int:
    """Boxes beyond the first of the same name, that is, of the same launch."""
    seen: dict[str, set[str]] = {}
    for box in history:
        seen.setdefault(box.name, set()).add(box.id)
    return sum(len(ids) - 1 for ids in seen.values())


def by_time(events: Iterable[Event]) -> list[Event]:
    """All writers of the demo share one host, so here, and only here, wall times may be compared."""
    return sorted(events, key=lambda event: event.t)


def _seconds(fault: FaultMade, until: float | None) -> float | None:
    return None if until is None else round(until - fault.at, 2)


def document(
    *,
    seed: int,
    finished: bool,
    faults: Sequence[FaultMade],
    events: Sequence[Event],
    history: Sequence[BoxHistory],
    orphans: int,
    final_weights: str | None,
    uninterrupted_weights: str | None,
    seconds: float,
    restarts: Sequence[float] = (),
) -> Mapping[str, Any]:
    """The JSON document that ``vl-tui demo --json`` prints."""
    steps_known = any(exact(e) for e in events)
    rows = [fault_row(fault, events, steps_known=steps_known) for fault in faults]
    with_notice = [row["steps_lost"] for row in rows if row["kind"] == "notice"]
    verified, mismatched = repeated_steps(events)
    return {
        "seed": seed,
        "finished": finished,
        "attempts": attempts(events),
        "providers_used": len(providers_used(events)),
        "providers": providers_used(events),
        "faults": rows,
        "steps_lost_with_notice": sum(with_notice) if with_notice and None not in with_notice else None,
        "final_weights_sha256": final_weights,
        "uninterrupted_weights_sha256": uninterrupted_weights,
        "repeated_steps_verified": verified if steps_known else None,
        "repeated_steps_mismatched": mismatched if steps_known else None,
        "orphans": orphans,
        "double_launches": double_launches(history),
        "attempts_lost_to_controller": attempts_lost_to_controller(faults, events, restarts),
        "zombie_commits_refused": sum(e.kind == "commit_refused" for e in events),
        "seconds": round(seconds, 1),
    }
