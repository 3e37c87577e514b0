"""Dialogs show what an act costs before it can be done, and nothing is done by one key or by a burst of them."""

from __future__ import annotations

import pytest

from tests.app.driven import driven
from tests.app.hand_made import attempt, facts, run, training
from vl_tui.app.dialogs.dialog import CandidatesDialog, ConfirmDialog, Dialog
from vl_tui.app.screens.fleet import FleetScreen


@pytest.mark.parametrize(("key", "action", "offer"), [
    ("m", "migrate", "basalt/north/A100:1/spot"), ("e", "escalate", "nimbus/east/A100:1/on_demand"),
])  # fmt: skip
async def test_a_move_is_asked_for_after_its_cost_was_shown(key: str, action: str, offer: str) -> None:
    async with driven() as one:
        await one.press(key)
        text = await one.see("$/h")
        for word in ("cost", "finish", "stay", f"enter {action} to 1"):
            assert word in text
        assert one.reader.acts == []
        await one.press("enter")
        [intent] = one.reader.acts
        assert (intent.action, intent.run, intent.epoch, intent.offer) == (action, "char-lm", 1, offer)
        assert isinstance(one.app.screen, FleetScreen)
        await one.see(f"{action} char-lm: told")


async def test_digits_and_arrows_pick_what_enter_does() -> None:
    async with driven() as one:
        await one.press("m", "3")
        await one.see("enter migrate to 3")
        await one.press("down", "up", "k")
        await one.see("enter migrate to 2")
        await one.press("enter")
        assert [intent.offer for intent in one.reader.acts] == ["nimbus/west/A100:1/spot"]


@pytest.mark.parametrize("keys", ["escape", "0 enter", "k enter", "9 8 escape", "q x tab escape"])
@pytest.mark.parametrize("key", ["m", "e", "s"])
async def test_staying_changes_nothing(key: str, keys: str) -> None:
    if key == "s" and keys == "k enter":
        keys = "j k enter"
    async with driven() as one:
        await one.press(key, *keys.split())
        await one.until(lambda: isinstance(one.app.screen, FleetScreen))
        assert one.reader.acts == []
        assert one.app.is_running


async def test_a_stop_takes_a_second_thought() -> None:
    async with driven() as one:
        await one.press("s")
        text = await one.see("Stop char-lm")
        assert "Its checkpoint at step 170 stays in the store." in text
        assert "enter cancel" in text
        await one.press("enter")
        assert one.reader.acts == []
        await one.press("s", "1")
        await one.see("enter stop the run")
        await one.press("enter")
        assert [(intent.action, intent.run, intent.epoch) for intent in one.reader.acts] == [("stop", "char-lm", 1)]


@pytest.mark.parametrize("keys", ["m enter", "m enter enter enter", "e 1 enter", "s 1 enter", "m m enter"])
async def test_a_burst_of_keys_never_acts(keys: str) -> None:
    async with driven() as one:
        await one.burst(*keys.split())
        assert isinstance(one.app.screen, Dialog)
        assert one.reader.acts == []


async def test_keys_pressed_before_the_dialog_was_seen_do_nothing() -> None:
    async with driven() as one:
        await one.press("m")
        one.dialog.canvas.painted_at = None
        await one.pilot.press("enter")
        assert one.reader.acts == []
        assert isinstance(one.app.screen, CandidatesDialog)


async def test_the_same_wish_twice_has_one_id() -> None:
    async with driven() as one:
        await one.press("m", "enter")
        await one.press("m", "2", "enter")
        await one.press("e", "enter")
        first, second, other = (intent.id for intent in one.reader.acts)
        assert first == second != other


async def test_enter_pressed_twice_in_a_dialog_sends_one_wish() -> None:
    async with driven() as one:
        await one.press("m")
        await one.press("enter")
        await one.pilot.press("enter")
        assert len(one.reader.acts) == 1


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
async def test_a_run_that_has_ended_is_left_alone(state: str) -> None:
    ended = run(events=attempt(1, 600, steps=[1]), state=state)  # type: ignore[arg-type]
    async with driven(facts(ended)) as one:
        for key, word in (("m", "migrate"), ("e", "escalate"), ("s", "stop")):
            await one.press(key)
            await one.see(f"char-lm has {state}: there is nothing to {word}"[:50])
            assert isinstance(one.app.screen, FleetScreen)
        assert one.reader.acts == []


async def test_the_choices_stay_as_they_were_while_offers_change() -> None:
    async with driven() as one:
        await one.press("m")
        before = (await one.see("basalt north")).splitlines()
        one.reader.given = facts(training(), offers=())
        one.app._heard()
        await one.pilot.pause(0.2)
        after = one.text.splitlines()
        assert [line for line in after if "▸ 1" in line] == [line for line in before if "▸ 1" in line]


async def test_the_screen_behind_a_dialog_is_dimmed_and_goes_on() -> None:
    async with driven() as one:
        await one.press("s")
        text = await one.see("Stop char-lm")
        assert "controller: on this host" in text
        one.reader.given = facts(training(), controller="on gpu-desk")
        one.app._heard()
        await one.see("controller: on gpu-desk")
        assert isinstance(one.app.screen, ConfirmDialog)


async def test_a_run_without_offers_can_only_stay() -> None:
    async with driven(facts(training(), offers=())) as one:
        await one.press("m")
        await one.see("no offers yet")
        await one.press("1", "enter")
        assert one.reader.acts == []
        assert isinstance(one.app.screen, FleetScreen)


@pytest.mark.parametrize("size", [(80, 24), (160, 50), (60, 15)])
@pytest.mark.parametrize("key", ["m", "e", "s", "question_mark"])
async def test_a_dialog_stands_whole_in_the_middle(size: tuple[int, int], key: str) -> None:
    async with driven(size=size) as one:
        await one.press(key)
        text = (await one.see("╰")).splitlines()
        tops, ends = [line for line in text if "╭" in line], [line for line in text if "╰" in line]
        assert len(tops) == len(ends) == 1
        assert tops[0].index("╭") == ends[0].index("╰")
        inside = text[text.index(tops[0]) + 1 : text.index(ends[0])]
        assert all(line[tops[0].index("╭")] == line[tops[0].index("╮")] == "│" for line in inside)
