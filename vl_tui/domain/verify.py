"""Proof that a resumed attempt goes on where the lost one was: losses of steps done again, compared exactly. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vl_agent.protocol import Event


@dataclass(frozen=True)
class Verified:
    repeated: int
    """Steps of this epoch that an earlier one had done and told a loss for."""
    mismatched: int
    first_mismatch: int | None
    """The step."""


def fold(by_epoch: dict[int, dict[int, float]], events: Iterable[Event]) -> None:
    """Add the exact losses that ``events`` tell to ``by_epoch``: by epoch, by step. Steps without one prove nothing,
    nor do losses that were read in the output: they are rounded, and often a mean over the steps before."""
    for event in events:
        step, loss = event.fields.get("step"), event.fields.get("loss")
        exact = event.kind == "step" and "source" not in event.fields
        if exact and type(step) is int and isinstance(loss, (int, float)):
            by_epoch.setdefault(event.epoch, {})[step] = float(loss)


def verified(by_epoch: dict[int, dict[int, float]], epoch: int) -> Verified:
    """Compare ``epoch`` with the last earlier one that did the same step."""
    earlier: dict[int, float] = {}
    for other in sorted(number for number in by_epoch if number < epoch):
        earlier.update(by_epoch[other])
    again = {step: loss for step, loss in by_epoch.get(epoch, {}).items() if step in earlier}
    wrong = sorted(step for step, loss in again.items() if loss != earlier[step])
    return Verified(len(again), len(wrong), wrong[0] if wrong else None)


def last_step_before(by_epoch: dict[int, dict[int, float]], epoch: int) -> int:
    """The last step that an earlier epoch reached: once ``epoch`` is past it, all that it repeats is there."""
    return max((step for number, steps in by_epoch.items() if number < epoch for step in steps), default=0)
