"""When a silence between steps is suspicious, and when it is sure: by time alone, without a training."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vl_agent.standstill import (
    BLIND_HUNG_S,
    FIRST_S,
    FIRST_STEPS,
    HUNG_S,
    LEAST_S,
    Stillness,
    Watchdog,
    stage,
)


def watched(*silences: float) -> tuple[Watchdog, float]:
    """A watchdog that has seen steps with these silences between them, and the time of the last."""
    dog, now = Watchdog(), 1000.0
    dog.step(now)
    for silence in silences:
        now += silence
        dog.step(now)
    return dog, now


def test_without_any_step_nothing_is_said() -> None:
    dog = Watchdog()
    dog.excuse(5.0)
    assert dog.silent_s(5000.0) is None


def test_the_first_steps_may_compile() -> None:
    dog, _ = watched(*[0.1] * (FIRST_STEPS - 1))
    assert dog.limit_s == FIRST_S
    dog, _ = watched(*[400.0] * FIRST_STEPS, *[0.1] * 10)
    assert dog.limit_s == LEAST_S, "what the first took says nothing about the others"


def test_the_limit_follows_the_usual_step() -> None:
    dog, _ = watched(*[0.1] * 5, *[0.2] * 100)
    assert dog.limit_s == LEAST_S
    dog, _ = watched(*[0.1] * 5, *[40.0] * 100)
    assert dog.limit_s == 200.0


def test_a_silence_that_ended_by_itself_is_no_news_the_next_time() -> None:
    dog, now = watched(*[0.1] * 5, *[0.2] * 300, 500.0, *[0.2] * 300)
    assert dog.usual_s < 1
    assert stage(now, 600.0, dog.limit_s, None) == ""


def test_an_excuse_is_no_step_and_no_silence() -> None:
    dog, now = watched(*[0.1] * 10)
    dog.excuse(now + 500)
    assert dog.silent_s(now + 510) == 10
    dog.step(now + 510)
    assert dog.limit_s == LEAST_S


@pytest.mark.parametrize(
    ("silent", "seen", "expected"),
    [
        (LEAST_S, None, ""),
        (LEAST_S + 1, None, "suspected"),
        (HUNG_S + 1, None, "suspected"),
        (HUNG_S + 1, Stillness(0.0, blind=False), "confirmed"),
        (HUNG_S + 1, Stillness(10_000.0 - 100, blind=False), "suspected"),
        (HUNG_S + 1, Stillness(0.0, blind=True), "suspected"),
        (BLIND_HUNG_S + 1, Stillness(0.0, blind=True), "confirmed"),
        (HUNG_S - 1, Stillness(0.0, blind=False), "suspected"),
    ],
)
def test_it_is_sure_only_when_nothing_moved_for_long(silent: float, seen: Stillness | None, expected: str) -> None:
    assert stage(10_000.0, silent, LEAST_S, seen) == expected


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=600))
def test_no_silence_as_long_as_one_before_is_ever_suspicious(silences: list[float]) -> None:
    dog, now = watched(*[0.1] * FIRST_STEPS, *silences)
    longest = max(silences[-500:])
    assert stage(now, longest, dog.limit_s, None) == ""
