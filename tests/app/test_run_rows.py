"""The Run screen, drawn from facts made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.app.hand_made import (
    NOW,
    SIZES,
    attempt,
    box,
    event,
    facts,
    lines,
    lost,
    many_attempts,
    picture,
    run,
    training,
)
from vl_tui.app.draw import Row
from vl_tui.app.facts import Facts, RunFacts
from vl_tui.app.log import LogStore
from vl_tui.app.screens.run_rows import RunState, rows

LOG = LogStore()
LOG.add(1, 0, b"".join(b"step %d loss 2.5\n" % step for step in range(300)))


def screen(
    found: Facts, width: int, height: int, state: RunState | None = None, log: LogStore = LOG, now: float = NOW
) -> list[Row]:
    drawn = rows(found, state or RunState("char-lm"), log, width, height, now)
    assert len(drawn) == height
    return drawn


def drawn(
    one: RunFacts, width: int = 80, height: int = 24, *, state: RunState | None = None, log: LogStore = LOG,
    now: float = NOW,
) -> str:  # fmt: skip
    return picture(screen(facts(one), width, height, state, log, now), width)


def lane(text: str, label: str) -> str:
    """The cells of the lane that begins with ``label``."""
    [line] = [one for one in text.splitlines() if one[1:].startswith(label)]
    return line[20:]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_log_stands_under_figures_and_timeline(width: int, height: int) -> None:
    text = drawn(training(), width, height)
    for word in ("char-lm", "training", "174", "2.326", "durable", "79s ago", "timeline", "$1.25", "step 299 loss"):
        assert word in text
    assert text.index("timeline") < text.index("log · attempt 1") < text.index("step 299 loss")


def test_a_wide_screen_adds_sums_and_a_tall_one_the_meaning_of_the_glyphs() -> None:
    wide = drawn(training(), 160, 50)
    for word in ("steps", "lost", "wall", "━ train", "● durable", "? not heard", "4 steps at risk"):
        assert word in wide
    assert "wall" not in drawn(training(), 80, 24)
    assert "━ train" not in drawn(training(), 80, 24)


def test_every_stretch_and_event_of_an_attempt_is_on_its_lane() -> None:
    events = [
        *attempt(1, 3000, steps=range(1, 41)), event(2580, "notice", 1, source="aws", window_s=120),
        lost(1, 2500, "notice"), *attempt(2, 2500, steps=range(31, 61), resumed=30, place="west"),
        event(2100, "launch_ended", launch=2, reason="migrated", detail=""),
        *attempt(3, 2100, steps=range(61, 91), resumed=60, place="north"),
        event(1700, "launch_ended", launch=3, reason="escalated", detail=""),
        *attempt(4, 1700, steps=range(91, 251), every_s=10, resumed=90, market="on_demand"),
        event(4, "saved", 4, step=250, name="x", bytes=1, took_s=1),
    ]  # fmt: skip
    text = drawn(run(events=events, epoch=4, boxes=[box(4)]), 160, 50)
    first, second, third, fourth = (lane(text, f"{number} nimbus") for number in (1, 2, 3, 4))
    assert [glyph for glyph in "═━●▲✗" if glyph not in first] == []
    assert "┄═══━" in lane(drawn(run(events=attempt(1, 60, steps=[1, 2]))), "1 nimbus")
    assert "╍" in second
    assert "⇄" in second
    assert "⇑" in third
    assert "○▌" in fourth
    assert "▸4" in text
    assert "1 box lost · 1 migrated · 1 escalated · 10 steps repeated" in text


def test_work_that_was_lost_is_drawn_as_lost() -> None:
    events = [*attempt(1, 3000, steps=range(1, 38)), lost(1, 2000), *attempt(2, 2000, steps=range(31, 80), resumed=30)]
    found = screen(facts(run(events=events, epoch=2)), 160, 50)
    [first] = [one for one in found if one.left and one.left[0].text == " 1 "]
    assert any(piece.role == "lost" and "━" in piece.text for piece in first.left)
    assert "7" in first.right[1].text


def test_a_box_that_is_not_heard_is_drawn_as_unknown_since_then_and_no_earlier() -> None:
    silent = run(events=attempt(1, 600, steps=range(1, 30)), verdict="suspect", words="SSH silent for 9 s")
    text = drawn(silent)
    cells = lane(text, "1 nimbus")
    assert "?▌" in cells
    assert "━?" in cells or "●?" in cells
    assert " ▌" not in cells
    assert "SSH silent for 9 s" in text
    assert "?" not in lane(drawn(replace(silent, view=silent.view | {"verdict": "alive"})), "1 nimbus")


def test_a_box_that_is_heard_shows_no_unknown_stretch_while_it_starts() -> None:
    events = [one for one in attempt(1, 120) if one.kind != "step"]
    assert "?" not in lane(drawn(run(events=events)), "1 nimbus")


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_old_attempts_fold_into_a_count_and_the_newest_stays(width: int, height: int) -> None:
    text = drawn(many_attempts(), width, height)
    assert "older attempts" in text
    assert "▸12 nimbus" in text
    assert len(lane(text, "12 nimbus").split("▌")[0]) > (width - 48) / 3
    assert "step 299 loss" in text


@pytest.mark.parametrize(
    ("due", "words"),
    [(NOW + 9000, "✓ 12m to spare"), (NOW + 3600, "✗ 1h17 late"), (NOW - 300, "✗ due 5m ago")],
)
def test_the_deadline_is_judged_against_the_finish(due: float, words: str) -> None:
    text = drawn(training(deadline=due))
    assert words in text
    assert text.count("┃") == 1


def test_a_deadline_without_a_pace_says_what_is_left() -> None:
    assert "2h30 left, finish not known yet" in drawn(run(events=attempt(1, 60), deadline=NOW + 9000))


def test_a_late_finish_is_drawn_past_the_deadline() -> None:
    [line] = [one for one in drawn(training(deadline=NOW + 3600), 160, 50).splitlines() if "┃" in one]
    assert line.index("┃") < line.rindex("━")


def test_without_a_run_of_that_name_the_screen_says_so() -> None:
    text = picture(screen(facts(training("other")), 80, 24), 80)
    assert "there is no run char-lm in the store" in text
    assert "migrate" not in text


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (run(state="waiting", epoch=0, waiting="no offer fits: budget"), "no offer fits: budget"),
        (run(state="failed", detail="ValueError at step 3, twice"), "ValueError at step 3, twice"),
        (run(verdict="at_risk", words="its beat in the store is 40 s old"), "▲ its beat in the store is 40 s old"),
    ],
)
def test_what_the_controller_says_of_the_run_stands_above_the_timeline(one: RunFacts, words: str) -> None:
    text = drawn(one)
    assert words in text
    assert text.index(words) < text.index("timeline")


def test_trouble_with_the_store_is_said_here_too() -> None:
    found = replace(facts(training()), store_error="s3://b: timed out", failing_since=NOW - 61, read_at=NOW - 63)
    text = picture(screen(found, 80, 24), 80)
    assert "no word from the store for 61s" in text
    assert "63s old" in text


def test_the_log_can_be_read_from_any_line_and_says_which() -> None:
    text = drawn(training(), state=RunState("char-lm", top=10, follow=False))
    assert "line 11 of 301 · f follows" in text
    assert "step 9 loss" in text
    assert "step 299 loss" not in text


def test_lines_that_were_let_go_do_not_move_the_ones_that_are_read() -> None:
    log = LogStore()
    log.add(1, 0, b"".join(b"line %d\n" % number for number in range(500)))
    before = drawn(training(), state=RunState("char-lm", top=300, follow=False), log=log).split("f follows")[1]
    log._lines, log.dropped = log._lines[100:], 100
    assert drawn(training(), state=RunState("char-lm", top=300, follow=False), log=log).split("f follows")[1] == before


@pytest.mark.parametrize(
    ("one", "link", "words"),
    [
        (run(), "down: no route to host", "waits for the box's log · down: no route to host"),
        (run(state="waiting"), "", "waits for a box"),
        (run(state="finished"), "", "the store keeps no log of this run"),
    ],
)
def test_an_empty_log_says_why_it_is_empty(one: RunFacts, link: str, words: str) -> None:
    log = LogStore()
    log.link = link
    assert words in drawn(one, log=log)


def test_a_log_whose_box_does_not_answer_says_so_above_it() -> None:
    log = LogStore()
    log.add(1, 0, b"hello\n")
    log.link = "down: connection lost"
    assert "down: connection lost · following" in drawn(training(), log=log)


def test_lanes_keep_their_width_when_attempts_have_long_numbers() -> None:
    events = attempt(1_234_567_890, 600, steps=range(1, 30))
    assert len(lines(screen(facts(run(events=events, epoch=1_234_567_890)), 80, 24), 80)) == 24
