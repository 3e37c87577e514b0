"""The Fleet screen, drawn from facts made by hand."""

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
from vl_tui.app.facts import Facts
from vl_tui.app.screens.fleet_rows import FleetState, rows, shown


def fleet(found: Facts, width: int, height: int, state: FleetState | None = None, now: float = NOW) -> list[Row]:
    drawn = rows(found, state or FleetState(), width, height, now)
    assert len(drawn) == height
    return drawn


def drawn(found: Facts, width: int = 80, height: int = 24, state: FleetState | None = None, now: float = NOW) -> str:
    return picture(fleet(found, width, height, state, now), width)


def row_of(name: str, found: Facts, now: float = NOW) -> Row:
    """A run's row in the table, which is the first that has its name; on a screen too narrow for other panes."""
    return next(one for one in fleet(found, 80, 24, now=now)[1:] if any(name == p.text.strip() for p in one.left))


EIGHT = facts(
    training("llama-8b-sft", deadline=NOW + 7200),
    run("waits", state="waiting", epoch=0, waiting="no offer", boxes=[], usd_hour=0.0),
    run("moves", attempt(1, 600, steps=range(1, 30)), boxes=[box(1), box(2, market="on_demand", phase="", ssh=None)]),
    run("noticed", [*attempt(1, 600, steps=range(1, 30)), event(5, "notice", 1, source="aws", window_s=118)]),
    run("gone", attempt(1, 900, steps=range(1, 30)), boxes=[box(1)], verdict="lost", words="provider says gone"),
    run("done", attempt(1, 900, steps=range(1, 40)), state="finished", usd_hour=0.0),
    run("broken", attempt(1, 900, steps=range(1, 40)), state="failed", detail="ValueError", usd_hour=0.0),
    run("halted", attempt(1, 900, steps=range(1, 40)), state="stopped", usd_hour=0.0),
)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_run_is_a_row_with_its_state_its_checkpoint_and_its_price(width: int, height: int) -> None:
    text = drawn(EIGHT, width, height)
    for word in ("training", "state", "run", "durable", "$/h", "finish", "8 runs"):
        assert word in text
    if height > 15:
        for name in ("llama-8b-sft", "waits", "moves", "noticed", "gone", "done", "broken", "halted"):
            assert name in text
        for word in ("waiting", "notice", "lost", "finished", "failed", "stopped"):
            assert word in text


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_title_stands_above_its_column_whatever_the_width(width: int, height: int) -> None:
    found = fleet(facts(training()), width, height)
    text = lines(found, width)
    [head] = [line for line in text if " state " in line]
    line = text[text.index(head) + 1]
    end = head.index("durable") + len("durable")
    assert line[:end].endswith(" 79s")
    assert line[: head.index("$/h") + 3].endswith("$0.42")
    assert line[: head.index("finish") + 6].rstrip()[-6:].strip().count(":") == 1
    assert line[head.index("state") :].startswith("training")


def test_a_narrow_screen_leaves_whole_columns_out_and_a_wide_one_shows_them_all() -> None:
    assert "where" not in drawn(facts(training()), 60, 15)
    assert "market" not in drawn(facts(training()), 80, 24)
    wide = drawn(facts(training()), 160, 50)
    for title in ("where", "market", "progress", "done", "loss", "at risk", "spent"):
        assert title in wide
    assert "━━┄┄┄┄┄┄┄┄ 174/1,000" in wide


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_boxes_stand_there_with_what_they_do_and_cost(width: int, height: int) -> None:
    found = facts(
        run(events=attempt(1, 600, steps=range(1, 30)), boxes=[box(1), box(2, place="west", ssh=None, phase="")])
    )
    text = drawn(found, width, height)
    assert "boxes 2" in text
    assert "$0.84/h" in text
    assert "boots" in text
    assert "nimbus west" in text


def test_a_box_that_is_given_up_says_why_and_is_not_counted_as_cost() -> None:
    boxes = [box(1, given_up="migrated", usd_hour=9.0), box(2, usd_hour=0.5, place="west")]
    text = drawn(facts(run(events=attempt(2, 600, steps=range(1, 30)), epoch=2, boxes=boxes)), 160, 50)
    assert "given up" in text
    assert "migrated" in text
    assert "─ $0.50/h" in text


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_an_empty_fleet_says_what_to_do(width: int, height: int) -> None:
    text = drawn(facts(), width, height)
    assert "vl-tui submit run.yaml" in text
    assert "vl-tui demo" in text
    assert "…" not in text


def test_before_the_first_read_no_figure_is_shown() -> None:
    text = drawn(Facts())
    assert "reads the store" in text
    assert "$" not in text
    assert "0 runs" not in text


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_store_that_can_t_be_reached_is_said_with_its_age_and_the_whole_reason(width: int, height: int) -> None:
    why = "s3://bucket/prefix: runs/: Connection refused (http://127.0.0.1:9). Check the endpoint and the network."
    found = replace(facts(training()), store_error=why, failing_since=NOW - 130, read_at=NOW - 131)
    text = " ".join(drawn(found, width, height).split())
    assert "no word from the store for 2m" in text
    assert "2m old" in text
    assert " live " not in text
    assert "char-lm" in text
    if height > 15:
        assert "Check the endpoint and the network." in text


def test_ages_grow_while_nothing_is_read() -> None:
    found = facts(training())
    assert "live" in drawn(found)
    later = drawn(found, now=NOW + 240)
    assert "live" not in later
    assert "4m old" in later
    assert "the store answers slowly: what is shown is 4m old" in later


def test_figures_that_are_old_are_dim() -> None:
    assert "bright" in {piece.role for piece in row_of("char-lm", facts(training())).left}
    old = {piece.role for piece in row_of("char-lm", facts(training()), now=NOW + 60).left}
    assert not {"bright", "text"} & old


def test_a_silent_controller_is_said_with_its_age() -> None:
    found = facts(training(), view_at=NOW - 300)
    assert "no word from the controller for 5m" in drawn(found)
    assert "no word from the controller" not in drawn(facts(run(state="finished"), view_at=NOW - 300))


def test_a_controller_that_can_t_be_started_is_said_with_the_reason() -> None:
    found = facts(training(), controller="none", controller_error="fleet.yaml, line 3: providers: is missing.")
    text = drawn(found)
    assert "none could be started" in text
    assert "line 3: providers: is missing." in text


def test_a_run_that_can_t_be_read_is_named() -> None:
    text = drawn(facts(training(), unreadable={"odd": "Head.epoch: 'x' is not int"}))
    assert "odd can't be read: Head.epoch" in text
    assert "char-lm" in text


def test_the_controllers_alerts_are_shown_for_a_while() -> None:
    found = facts(training(), alerts=((NOW - 60, "an orphan was ended"), (NOW - 6000, "old news")))
    assert "an orphan was ended" in drawn(found)
    assert "old news" not in drawn(found)


def test_a_filter_is_seen_as_long_as_it_hides_runs() -> None:
    state = FleetState(filter="llama")
    text = drawn(EIGHT, state=state)
    assert "/llama   1 of 8 runs · esc shows all" in text
    assert "halted" not in "\n".join(text.splitlines()[:12])


@pytest.mark.parametrize(
    ("words", "names"),
    [("stopped", ["halted"]), ("!training", 6), ("NIMBUS", 7), ("", 8), ("!", 8), ("no such", 0)],
)
def test_the_filter_looks_at_name_state_and_place(words: str, names: list[str] | int) -> None:
    found = [one.name for one in shown(EIGHT, FleetState(filter=words))]
    assert (found if isinstance(names, list) else len(found)) == names


def test_where_nothing_passes_the_filter_that_is_said() -> None:
    text = drawn(EIGHT, state=FleetState(filter="xyz"))
    assert "no run matches xyz" in text
    assert "0 of 8 runs" in text


def test_the_row_under_the_cursor_is_always_among_those_shown_and_the_rest_is_counted() -> None:
    runs = [training(f"run-{number:02}") for number in range(40)]
    for at in (0, 17, 39):
        text = drawn(facts(*runs), state=FleetState(cursor=f"run-{at:02}"))
        assert f"▸ ► training   run-{at:02}" in text
        shown_ = sum(f"run-{number:02}" in line for line in text.splitlines()[:14] for number in range(40))
        hidden = sum(int(word) for line in text.splitlines() if "above" in line or "below" in line
                     for word in line.replace("·", " ").split() if word.isdigit())  # fmt: skip
        assert shown_ + hidden == 40


def test_saves_that_follow_one_another_are_one_event() -> None:
    text = drawn(facts(training()))
    assert text.count(" durable ·") == 1
    assert "step 170 durable · 3.0 MiB in 1.5 s · newest of 17" in text


def test_newest_events_come_first_and_an_unknown_one_is_shown_by_name() -> None:
    found = facts(
        run(events=[*attempt(1, 600, steps=[1]), event(3, "warning", 1, text="slow disk"), event(1, "novel", 1)])
    )
    text = drawn(found)
    assert "slow disk" in text
    assert text.index("slow disk") < text.index("attempt 1 trains")


def test_many_attempts_fold_into_words() -> None:
    text = drawn(facts(many_attempts()), 160, 50)
    assert "7 older attempts" in text
    assert "zone-12" in text
    assert "zone-3" not in text
    assert "11 boxes lost" in text


def test_a_finish_after_the_deadline_is_red() -> None:
    assert row_of("char-lm", facts(training(deadline=NOW + 60))).left[-1].role == "lost"
    assert row_of("char-lm", facts(training(deadline=NOW + 9e6))).left[-1].role == "text"


@pytest.mark.parametrize("name", ["gone", "waits", "halted"])
def test_a_run_that_does_not_train_has_no_finish(name: str) -> None:
    assert row_of(name, EIGHT).left[-1].text.strip() == "–"


def test_what_needs_a_person_comes_first_in_the_header() -> None:
    narrow = drawn(EIGHT, 60, 15).splitlines()[0]
    assert "1 lost" in narrow
    assert "1 notice" in narrow


def test_a_box_lost_at_a_place_reads_as_one_line() -> None:
    found = facts(run(events=[*attempt(1, 600, steps=[1]), lost(1, 30, "lost")]))
    assert "box 1 given up, lost: its provider took it" in drawn(found, 160, 50)
