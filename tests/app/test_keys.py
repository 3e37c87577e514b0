"""Keys of the two screens do what the help says, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.app.driven import Driven, driven
from tests.app.hand_made import LOOK, facts, run, training
from tests.test_invariant_9_hostile_output import is_harmless
from vl_tui.app.app import VlApp
from vl_tui.app.dialogs.dialog import CandidatesDialog, ConfirmDialog, HelpDialog
from vl_tui.app.screens import fleet as fleet_screen
from vl_tui.app.screens import run as run_screen
from vl_tui.app.screens.run import RunScreen
from vl_tui.config import load_fleet

THREE = facts(training("a-run"), training("b-run"), training("c-run"))


def cursor(one: Driven) -> str:
    [line] = [line for line in one.text.splitlines() if line.startswith(" ▸ ")]
    return line.split()[3]


async def opened(one: Driven, lines: int = 200) -> None:
    """The run under the cursor, with a log."""
    one.reader.log.add(1, 0, b"".join(b"line %d\n" % number for number in range(lines)))
    await one.press("enter")
    await one.see(f"line {lines - 1}")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ("j", "b-run"), ("down", "b-run"), ("j j", "c-run"), ("j j j", "c-run"), ("G", "c-run"), ("end", "c-run"),
        ("G k", "b-run"), ("G up", "b-run"), ("G g", "a-run"), ("G home", "a-run"), ("k", "a-run"),
    ],
)  # fmt: skip
async def test_the_cursor_moves_and_stops_at_the_ends(keys: str, name: str) -> None:
    async with driven(THREE) as one:
        await one.press(*keys.split())
        assert cursor(one) == name


async def test_enter_opens_the_run_under_the_cursor_and_escape_leads_back_to_it() -> None:
    async with driven(THREE) as one:
        await one.press("j", "enter")
        await one.see("fleet › b-run")
        await one.until(lambda: one.reader.followed == ["b-run"])
        await one.press("escape")
        await one.see("b-run")
        assert cursor(one) == "b-run"
        await one.until(lambda: one.reader.followed == ["b-run", None])


@pytest.mark.parametrize(
    ("keys", "first"),
    [
        ("g", 0), ("home", 0), ("k", -1), ("up", -1), ("ctrl+u", -8), ("pageup", -17), ("g j", 1), ("g down", 1),
        ("g ctrl+d", 8), ("g pagedown", 17), ("g G", None), ("k f", None), ("k end", None), ("k j", None),
    ],
)  # fmt: skip
async def test_the_log_is_scrolled_and_followed_by_keys(keys: str, first: int | None) -> None:
    async with driven() as one:
        await opened(one)
        await one.press(*keys.split())
        log = one.text.split("log · attempt")[1].splitlines()
        if first is None:
            assert "following" in log[0]
            assert log[-2].strip() == "line 199"
            return
        assert "f follows" in log[0]
        rows = len(log) - 2
        assert rows == 17
        at = first if first >= 0 else 201 - rows + first
        assert log[1].strip() == ("── attempt 1 ──" if at == 0 else f"line {at - 1}")


async def test_a_followed_log_shows_new_lines_and_one_that_is_read_stays() -> None:
    async with driven() as one:
        await opened(one)
        one.reader.log.add(1, 10_000, b"brand new\n")
        one.app._heard()
        await one.see("brand new")
        await one.press("g")
        one.reader.log.add(1, 20_000, b"newer still\n")
        one.app._heard()
        await one.see("of 203")
        assert "newer still" not in one.text


@pytest.mark.parametrize("screen", ["fleet", "run"])
async def test_help_names_every_key_of_the_screen_and_any_key_closes_it(screen: str) -> None:
    table = fleet_screen.HELP if screen == "fleet" else run_screen.HELP
    async with driven() as one:
        if screen == "run":
            await opened(one)
        await one.press("question_mark")
        text = await one.see(f"keys of {screen}")
        assert isinstance(one.app.screen, HelpDialog)
        for keys, words in table:
            assert keys in text
            assert words[:50] in text
        await one.press("q")
        assert not isinstance(one.app.screen, HelpDialog)
        assert one.app.is_running


@pytest.mark.parametrize("screen", ["fleet", "run"])
@pytest.mark.parametrize(("key", "dialog"), [("m", CandidatesDialog), ("e", CandidatesDialog), ("s", ConfirmDialog)])
async def test_keys_that_act_open_a_dialog_on_both_screens(screen: str, key: str, dialog: type) -> None:
    async with driven() as one:
        if screen == "run":
            await opened(one)
        await one.press(key)
        assert isinstance(one.app.screen, dialog)
        assert one.reader.acts == []


async def test_a_filter_is_typed_kept_and_cleared() -> None:
    async with driven(THREE) as one:
        await one.press("slash", "b", "minus", "q")
        await one.see("/b-q▌")
        await one.press("backspace", "enter")
        await one.see("1 of 3 runs")
        assert cursor(one) == "b-run"
        await one.press("enter")
        await one.see("fleet › b-run")
        await one.press("escape", "escape")
        await one.see("c-run")
        assert "of 3 runs" not in one.text


async def test_escape_while_a_filter_is_typed_forgets_it() -> None:
    async with driven(THREE) as one:
        await one.press("slash", "x", "x", "escape")
        await one.see("c-run")
        assert "xx" not in one.text


async def test_keys_that_mean_nothing_change_nothing() -> None:
    async with driven() as one:
        before = one.text.splitlines()[2:]
        await one.press("x", "f1", "tab", "ctrl+p", "space", "backspace", "1")
        assert one.text.splitlines()[2:] == before
        assert one.reader.acts == []


async def test_on_an_empty_fleet_no_key_does_anything() -> None:
    async with driven(facts()) as one:
        await one.press("m", "e", "s", "enter", "j", "G")
        assert "Nothing runs yet" in one.text
        assert len(one.app.screen_stack) == 2


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
@pytest.mark.parametrize("screen", ["fleet", "run"])
async def test_leaving_stops_the_reader_and_nothing_else(key: str, screen: str) -> None:
    async with driven() as one:
        if screen == "run":
            await opened(one)
        await one.press(key)
        await one.until(lambda: not one.app.is_running)
    assert (one.app.return_code, one.reader.stopped, one.reader.acts) == (0, 1, [])


async def test_every_size_is_drawn_whole_while_the_window_changes() -> None:
    async with driven(facts(training(), training("other"))) as one:
        await opened(one)
        for width, height in [(160, 50), (60, 15), (200, 60), (80, 24)]:
            await one.pilot.resize_terminal(width, height)
            text = await one.see("q quit")
            assert len(text.splitlines()) == height
            assert all(len(line) == width and is_harmless(line) for line in text.splitlines())
        await one.pilot.resize_terminal(59, 14)
        await one.see("59x14 is too small: at least 60x15")


async def test_a_terminal_that_is_too_small_for_a_dialog_does_not_let_it_act() -> None:
    async with driven() as one:
        await one.press("m")
        await one.pilot.resize_terminal(50, 12)
        await one.press("1", "enter", "enter")
        assert isinstance(one.app.screen, CandidatesDialog)
        assert one.reader.acts == []
        await one.press("escape")
        assert not isinstance(one.app.screen, CandidatesDialog)


async def test_the_app_says_what_became_of_a_wish() -> None:
    async with driven() as one:
        one.reader.answers["char-lm-1-migrate-0"] = "migrate char-lm: refused · no such offer"
        one.app._heard()
        await one.see("migrate char-lm: refused · no such offer")


async def test_of_a_thousand_changes_few_are_drawn_and_the_last_is_seen() -> None:
    usual = training()
    given = [facts(replace(usual, name=f"run-{number}")) for number in range(1000)]
    async with driven() as one:
        canvas = one.app.screen.canvas  # type: ignore[attr-defined]
        drawn = []
        before = canvas._draw
        canvas._draw = lambda width, height: (drawn.append(1), before(width, height))[1]

        def storm() -> None:
            for found in given:
                one.reader.given = found
                one.app._heard()

        await asyncio.to_thread(storm)
        await one.see("run-999")
        assert len(drawn) < 100


async def test_what_can_t_be_drawn_ends_the_app_with_the_error_and_without_its_locals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        secret = "hunter2"
        raise ZeroDivisionError(len(secret))

    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - it comes out where the app is left
        async with driven() as one:
            monkeypatch.setattr("vl_tui.app.screens.fleet_rows.rows", broken)
            one.app._heard()
            await one.until(lambda: not one.app.is_running)
    assert one.app._exit_renderables == []
    assert one.reader.stopped == 1


async def test_after_the_app_no_task_and_no_thread_is_left(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(f"fleet: mine\nstore: file://{tmp_path}/store\nproviders: [{{kind: local}}]\n")
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    app = VlApp(load_fleet(tmp_path / "fleet.yaml"), LOOK)
    async with app.run_test(size=(80, 24)) as pilot:
        one = Driven(app, pilot, app._reader)  # type: ignore[arg-type]
        await one.see("Nothing runs yet")
        assert any(thread.name == "facts" for thread in threading.enumerate())
    assert asyncio.all_tasks() == tasks
    assert {thread.name for thread in set(threading.enumerate()) - threads} <= {"asyncio_0", "asyncio_1"}


async def test_a_run_that_vanishes_under_an_open_screen_is_said() -> None:
    async with driven() as one:
        await one.press("enter")
        await one.see("fleet › char-lm")
        one.reader.given = facts(run("other"))
        one.app._heard()
        await one.see("there is no run char-lm in the store")
        await one.press("m", "s")
        assert isinstance(one.app.screen, RunScreen)
