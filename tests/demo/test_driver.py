"""When the demo gives its run up."""

from __future__ import annotations

from vl_tui.demo.driver import Still


def test_a_slow_run_of_which_something_is_heard_now_and_then_is_never_given_up() -> None:
    still = Still(180.0)
    assert not any(still(minutes, 60.0 * minutes) for minutes in range(600))


def test_a_run_of_which_nothing_is_heard_is_given_up_when_it_has_stood_still_for_so_long() -> None:
    still = Still(180.0)
    assert not still(7, 1000.0)
    assert not still(7, 1180.0)
    assert still(7, 1181.0)
