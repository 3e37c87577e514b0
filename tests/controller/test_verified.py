"""Losses of steps done again, compared exactly: what counts as proof."""

from __future__ import annotations

from vl_agent.protocol import Event

from vl_tui.domain.verify import Verified, fold, verified


def step(epoch: int, number: int, loss: float, **fields: str) -> Event:
    return Event(0.0, "step", epoch, {"step": number, "loss": loss, "total": 9, **fields})


def test_losses_told_exactly_are_compared() -> None:
    told: dict[int, dict[int, float]] = {}
    fold(told, [step(1, 5, 0.5), step(1, 6, 0.25), step(2, 5, 0.5), step(2, 6, 0.75)])
    assert verified(told, 2) == Verified(2, 1, 6)


def test_losses_read_in_the_output_prove_nothing_and_contradict_nothing() -> None:
    """Transformers prints the mean since its last line: after a resume another one, of the same training."""
    told: dict[int, dict[int, float]] = {}
    fold(told, [step(1, 5, 0.5, source="log"), step(2, 5, 0.499, source="log"), step(1, 6, 0.25), step(2, 6, 0.25)])
    assert verified(told, 2) == Verified(1, 0, None)
