"""The cadence: against the exact cost of a run that saves and is lost at random, and as the autopilot learns it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vl_agent.cadence import Autopilot, interval


def cost(every_s: float, stall_s: float, mean_s: float) -> float:
    """Wall time for a second of training with losses at random (exponential) and a save after each ``every_s``: Daly's
    complete model, up to a factor that does not depend on ``every_s``."""
    return math.expm1((every_s + stall_s) / mean_s) / every_s


@given(st.floats(0.001, 600), st.floats(600, 400_000))
def test_saving_more_or_less_often_than_said_costs_more(stall_s: float, mean_s: float) -> None:
    said = interval(stall_s, 3600 / mean_s)
    here = cost(said, stall_s, mean_s)
    for factor in (0.6, 1.7):
        assert here <= cost(said * factor, stall_s, mean_s) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("stall_s", "mean_h", "every_s"), [(10, 2, 373), (60, 0.5, 426), (300, 0.5, 849), (1, 8, 240), (0.02, 0.5, 8.5)]
)
def test_dalys_own_figures_come_out(stall_s: float, mean_h: float, every_s: float) -> None:
    assert interval(stall_s, 1 / mean_h) == pytest.approx(every_s, rel=0.02)


def test_announced_losses_make_saves_rarer_and_none_at_all_make_them_needless() -> None:
    assert interval(1, 0.5, announced=0.8) == pytest.approx(math.sqrt(5) * interval(1, 0.5), rel=0.02)
    assert interval(1, 0.5, announced=1.0) == math.inf
    assert interval(1, 0.0) == math.inf
    assert interval(1, 100.0, least_s=500.0) == 500.0


class Clocked:
    """An autopilot and a training that saves: ``step_s`` a step, ``stall_s`` a save."""

    def __init__(self, pilot: Autopilot, *, step_s: float, stall_s: float, tells: bool) -> None:
        self.pilot, self.step_s, self.stall_s, self.tells = pilot, step_s, stall_s, tells
        self.now, self.step = 0.0, 0

    def train(self, steps: int, save_every: int, durable_s: float = 0.5) -> None:
        for _ in range(steps):
            self.now += self.step_s
            self.step += 1
            self.pilot.hear("step", {"step": self.step, "loss": 1.0}, self.now)
            if self.step % save_every == 0:
                self.now += self.stall_s
                took = {"took_s": self.stall_s if self.tells else None}
                # the step after the save tells of the pause; its files are seen whole after that
                self.now += self.step_s
                self.step += 1
                self.pilot.hear("step", {"step": self.step, "loss": 1.0}, self.now)
                self.pilot.hear("saved", {"step": self.step - 1, **took}, self.now)
                self.pilot.hear("durable", {"step": self.step - 1, "took_s": durable_s}, self.now)


def test_nothing_is_said_before_a_save_was_measured_and_each_turn_is_said_once() -> None:
    pilot = Autopilot(losses_per_hour=0.5)
    run = Clocked(pilot, step_s=0.2, stall_s=1.0, tells=True)
    run.train(50, save_every=1000)
    assert pilot.wanted() is None
    run.train(3000, save_every=500)
    told = pilot.wanted()
    assert told is not None
    assert told.every_s == pytest.approx(interval(1.0, 0.5), rel=0.01)
    assert "1 s" in told.why
    run.train(3000, save_every=500)
    assert pilot.wanted() is None
    run.stall_s = 9.0  # saves have grown ninefold: three times as rare
    run.train(6000, save_every=500)
    again = pilot.wanted()
    assert again is not None
    assert again.every_s == pytest.approx(interval(9.0, 0.5), rel=0.01)


def test_no_save_is_wanted_before_the_one_before_can_be_durable_nor_within_ten_steps() -> None:
    pilot = Autopilot(losses_per_hour=60.0)
    Clocked(pilot, step_s=0.2, stall_s=0.1, tells=True).train(600, save_every=100, durable_s=90.0)
    told = pilot.wanted()
    assert told is not None
    assert told.every_s >= 90.0
    slow = Autopilot(losses_per_hour=60.0)
    Clocked(slow, step_s=30.0, stall_s=0.1, tells=True).train(60, save_every=10)
    told = slow.wanted()
    assert told is not None
    assert told.every_s >= 300.0


def test_a_script_that_saves_on_its_own_is_advised_once_when_it_is_far_off_and_left_alone_when_it_is_not() -> None:
    often = Autopilot(losses_per_hour=0.1)
    run = Clocked(often, step_s=0.2, stall_s=5.0, tells=False)
    run.train(500, save_every=50)  # every 15 s, with 5 s for each save
    advice = often.advice()
    assert advice is not None
    assert advice.every_s == pytest.approx(interval(5.0, 0.1), rel=0.05), "measured by the pauses in its steps"
    assert "the script saves every" in advice.why
    run.train(500, save_every=50)
    assert often.advice() is None
    right = Autopilot(losses_per_hour=0.1)
    Clocked(right, step_s=0.2, stall_s=5.0, tells=False).train(20_000, save_every=2500)
    assert right.advice() is None
