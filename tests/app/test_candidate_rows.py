"""The candidates dialog, drawn from offers made by hand."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.app.hand_made import NOW, OFFERS, attempt, event, facts, lines, lost, offer, picture, run, training
from vl_tui.app import words
from vl_tui.app.dialogs.candidate_rows import Choice, choice, rows
from vl_tui.app.facts import RunFacts

SIZES = [(76, 22), (104, 48), (58, 13)]
MANY = tuple(offer(f"zone-{number:02}", usd_hour=0.5 + number / 100) for number in range(14))


def migrate(one: RunFacts | None = None, action: str = "migrate", **more: object) -> Choice:
    one = one or training()
    return choice(facts(one, **more), one, action, NOW)


def dialog(found: Choice, picked: int | None = None, width: int = 76, height: int = 22, now: float = NOW) -> str:
    drawn = rows(found, found.best(now) if picked is None else picked, width, height, now)
    assert len(drawn) <= height
    return picture(drawn, width)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("action", ["migrate", "escalate"])
@pytest.mark.parametrize("offers", [OFFERS, MANY, ()], ids=["some", "many", "none"])
def test_price_and_cost_of_the_picked_choice_and_the_keys_are_always_there(
    width: int, height: int, action: str, offers: tuple[object, ...]
) -> None:
    found = migrate(action=action, offers=offers)
    for picked in range(len(found.found) + 1):
        text = dialog(found, picked, width, height)
        assert text.startswith("╭")
        assert text.rstrip().endswith("╯")
        assert "enter" in text
        assert "esc no change" in text
        assert "stay" in text
        if picked:
            [line] = [one for one in text.splitlines() if f"▸ {picked} " in one]
            assert line.count("$") == 2
            assert found.found[picked - 1].offer.place in line
            assert "…" not in line
            assert f"{action} to {picked}" in text
            assert found.found[picked - 1].offer.market.replace("_", "-") in text


def test_the_cheapest_in_time_stands_first_and_the_own_place_is_what_staying_means() -> None:
    text = dialog(migrate())
    assert text.index("basalt north") < text.index("nimbus west")
    assert "▸ 1 basalt north" in text
    assert "0 stay nimbus east" in text
    assert " nimbus east " not in text.split("stay")[0].replace("nimbus east            on-demand", "")


def test_escalate_lists_on_demand_and_nothing_else() -> None:
    text = dialog(migrate(action="escalate"))
    listed = text.split("0 stay")[0]
    assert "Escalate char-lm to on-demand" in text
    assert listed.count("on-demand  $") == 2
    assert "spot" not in listed
    assert "do not fit" not in text


def test_cost_is_the_price_times_what_remains() -> None:
    found = migrate(offers=(offer("west", usd_hour=3.6),))
    one = found.found[0]
    assert one.finish_s is not None
    remaining_s = (1000 - 170) * 10.0
    assert one.finish_s[0] == pytest.approx(one.ready_s + remaining_s)
    assert f"${3.6 * one.finish_s[0] / 3600:.2f}"[:-1] in dialog(found)
    assert words.minute(NOW + one.finish_s[0]) in dialog(found)


def test_a_place_where_the_run_was_just_lost_is_not_what_stands_picked() -> None:
    events = [
        *attempt(1, 1200, steps=range(1, 30), provider="basalt", place="north"), lost(1, 700),
        *attempt(2, 700, steps=range(30, 60), resumed=20),
    ]  # fmt: skip
    one = run(events=events, epoch=2)
    found = migrate(one)
    assert found.found[0].offer.place == "north"
    assert found.best(NOW) == 2
    assert "the run was lost there 12m ago" in dialog(found, 1)
    assert found.best(NOW + 4000) == 1


def test_a_candidate_that_misses_the_deadline_says_so() -> None:
    text = dialog(migrate(training(deadline=NOW + 600)), 1)
    assert "expected to miss the deadline there" in text


def test_an_offer_that_does_not_fit_says_why_instead_of_vanishing() -> None:
    assert "not nimbus full: no capacity now" in dialog(migrate())


def test_what_the_budget_forbids_cannot_be_picked() -> None:
    found = migrate(training(budget=1.3))
    assert found.found == ()
    text = dialog(found)
    assert "nothing to go to now" in text
    assert "of the budget left" in text
    assert "migrate to" not in text


def test_more_candidates_than_digits_are_counted() -> None:
    found = migrate(offers=MANY)
    assert len(found.found) == 9
    assert "5 more, each dearer or later" in dialog(found)


def test_the_age_of_the_offers_grows_and_is_marked() -> None:
    found = migrate()
    assert "offers 1s old" in dialog(found)
    later = rows(found, 1, 76, 22, NOW + 600)
    assert "offers 10m old" in picture(later, 76)
    assert any(piece.role == "notice" and "10m" in piece.text for piece in later[1].left)
    assert "no offers yet" in dialog(migrate(offers=()))


def test_a_run_without_a_box_is_not_promised_a_save() -> None:
    one = run(events=[*attempt(1, 900, steps=range(1, 30)), lost(1, 20)], state="released")
    text = dialog(migrate(one), 1)
    assert "save here" not in text
    assert "go on there" in text


def test_where_the_steps_are_not_known_price_stands_and_cost_is_a_dash() -> None:
    one = run(events=[event(60, "launched", launch=1, provider="nimbus", place="east", market="spot", usd_hour=0.42)])
    [line] = [text for text in dialog(migrate(one)).splitlines() if "▸ 1" in text]
    assert "$0.39" in line
    assert line.count("–") == 2


def test_a_finish_another_day_names_the_day() -> None:
    one = training()
    slow = replace(one, view=one.view | {"progress": {"s_per_step": 200.0, "save_every_s": 60.0}})
    text = dialog(migrate(slow), 1)
    assert time.strftime("%a %Hh", time.localtime(NOW + 830 * 200)) in text


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_long_and_wide_name_keeps_the_frame_whole(width: int, height: int) -> None:
    offers = (
        offer("東京データセンター第一棟", provider="とても長い名前のプロバイダー"),
        offer("west\x1b[2J", usd_hour=9.0),
    )
    found = migrate(run("a" * 40, attempt(1, 600, steps=range(1, 30), place="東京" * 12)), offers=offers)
    for line in lines(rows(found, 1, width, height, NOW), width)[1:-1]:
        assert line.startswith("│ ")
        assert line.endswith(" │")
