"""The reader: what it hands over stays true and says how old it is, whatever the store does; wishes are left once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vl_agent import protocol
from vl_agent.protocol import Event, Intent
from vl_agent.store import Unanswered

from tests.app.by_hand import Fickle, Home
from tests.app.hand_made import OFFERS, box
from vl_tui.app import reader as readers
from vl_tui.app.facts import Facts
from vl_tui.app.reader import Reader
from vl_tui.controller import process

WITHIN_S = 20.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("STATE_HOME", "CACHE_HOME", "CONFIG_HOME", "RUNTIME_DIR"):
        monkeypatch.setenv(f"XDG_{name}", str(tmp_path / name.lower()))
    for name in ("LOOK_S", "FAILED_S", "CONTROLLER_S"):
        monkeypatch.setattr(readers, name, 0.02)
    return Home(tmp_path)


@pytest.fixture
def controllers(home: Home, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """No controller lives here; who would be started is remembered instead."""
    started: list[Path] = []
    monkeypatch.setattr(process, "ensure_controller", lambda path: started.append(path))
    return started


@pytest.fixture
def store(home: Home, monkeypatch: pytest.MonkeyPatch) -> Fickle:
    fickle = Fickle(home.store)
    monkeypatch.setattr("vl_tui.store.opening.open_fleet_store", lambda *_, **__: fickle)
    return fickle


class Watched:
    """A reader that runs, and a way to wait for what it hands over."""

    def __init__(self, home: Home) -> None:
        self.told = threading.Event()
        self.reader = Reader(home.fleet, self.told.set)

    async def until(self, true: Callable[[Facts], Any]) -> Facts:
        end = time.monotonic() + WITHIN_S
        while not true(self.reader.facts):
            assert time.monotonic() < end, self.reader.facts
            await asyncio.sleep(0.01)
        return self.reader.facts

    async def next(self) -> Facts:
        """What is read from now on."""
        before = self.reader.facts.read_at
        return await self.until(lambda found: found.read_at > before)

    async def answer(self, words: str) -> str:
        await self.until(lambda _: any(words in told for told in self.reader.answers.values()))
        return next(told for told in self.reader.answers.values() if words in told)


@pytest.fixture
def watched(home: Home, controllers: list[Path], store: Fickle) -> Iterator[Watched]:
    one = Watched(home)
    one.reader.start()
    yield one
    one.reader.stop()


def wish(action: str = "migrate", offer: str = "", run: str = "a") -> Intent:
    return Intent(f"{run}-1-{action}", run, 1, action, offer=offer, by="me", at=1.0)  # type: ignore[arg-type]


async def test_what_agents_and_controllers_wrote_is_what_the_screen_gets(home: Home, watched: Watched) -> None:
    await home.trains("a")
    await home.view("a", offers=OFFERS)
    found = await watched.until(lambda found: found.run("a") and found.run("a").timeline.step == 10 and found.offers)
    run = found.run("a")
    assert run is not None
    assert run.live
    assert (run.timeline.attempts[0].place, run.timeline.total, run.number("spent_usd")) == ("east", 1000, 1.0)
    assert found.offers == OFFERS
    assert watched.told.is_set()
    assert abs(found.read_at - time.time()) < WITHIN_S


async def test_what_is_written_later_is_added_once(home: Home, watched: Watched) -> None:
    epoch = await home.trains("a", range(1, 6))
    await watched.until(lambda found: found.run("a") and found.run("a").timeline.step == 5)
    await home.steps("a", epoch, range(6, 9))
    found = await watched.until(lambda found: found.run("a").timeline.step == 8)  # type: ignore[union-attr]
    run = found.run("a")
    assert run is not None
    assert run.timeline.attempts[0].steps == 8
    assert [event.kind for event in run.timeline.recent].count("started") == 1


@pytest.mark.parametrize(
    ("key", "body"),
    [
        (protocol.head_key("bad"), b"{"),
        (protocol.head_key("bad"), b'{"epoch": "x"}'),
        (protocol.spec_key("bad"), b"[" * 5000),
        (protocol.spec_key("bad"), b"\xff\xfe"),
    ],
    ids=["half a head", "odd head", "deep spec", "no text"],
)
async def test_one_run_that_nobody_understands_hides_no_other(
    home: Home, watched: Watched, key: str, body: bytes
) -> None:
    await home.trains("good")
    await home.store.put(protocol.spec_key("half"), b"{}")
    await home.store.put(key, body)
    if key == protocol.spec_key("bad"):
        await home.store.put(protocol.head_key("bad"), (await home.store.get(protocol.head_key("good"))).data)
    found = await watched.until(lambda found: "bad" in found.unreadable)
    assert [run.name for run in found.runs] == ["good"]
    assert found.store_error == ""
    assert list(found.unreadable) == ["bad"]


async def test_lines_of_a_journal_that_make_no_sense_are_passed_over(home: Home, watched: Watched) -> None:
    epoch = await home.trains("a", [1])
    numbers = b"1" + b"0" * 400, b"1e999", b'"x"', b"null", b"[]"
    lines = [b'{"t":%s,"kind":"step","epoch":1,"step":2}' % number for number in numbers]
    lines += [b'{"t":1,"kind":"step","epoch":1,"step":%s}' % number for number in numbers]
    await home.lines("a", protocol.agent_writer(epoch), b"\n".join([*lines, b"\xff\xfe", b"[" * 9999, b"{}"]))
    await home.steps("a", epoch, [3])
    found = await watched.until(lambda found: found.run("a") and found.run("a").timeline.step == 3)
    assert (found.unreadable, found.store_error) == ({}, "")


@pytest.mark.parametrize(
    "view",
    [
        b"{", b"[]", b"[" * 100_000, b'{"runs": 7, "offers": 7, "alerts": 7, "published_at": "x", "owner": 7}',
        b'{"runs": {"a": 7}, "offers": [7, {}, {"key": "x"}], "alerts": [7, {}], "published_at": 1e999}',
        b'{"runs": {"a": {"boxes": [7, {"launch": "x", "ssh": []}], "spent_usd": [], "progress": 7}}}',
    ],
)  # fmt: skip
async def test_a_view_that_makes_no_sense_is_passed_over(home: Home, watched: Watched, view: bytes) -> None:
    await home.trains("a")
    await home.store.put(protocol.VIEW_KEY, view)
    await watched.until(lambda found: found.run("a"))
    assert (await watched.next()).store_error == ""


@pytest.mark.parametrize("error", [Unanswered("s3://b: timed out"), ZeroDivisionError("no"), OSError(5, "io")])
async def test_a_store_that_fails_is_said_with_since_when_and_what_was_read_stays(
    home: Home, watched: Watched, store: Fickle, error: Exception
) -> None:
    await home.trains("a")
    await watched.until(lambda found: found.run("a"))
    store.error = error
    found = await watched.until(lambda found: found.store_error)
    assert found.run("a") is not None or "a" in found.unreadable
    assert abs(found.failing_since - time.time()) < WITHIN_S
    await watched.until(lambda later: later is not found and later.store_error)
    assert watched.reader.facts.failing_since == found.failing_since
    assert watched.reader.facts.read_at == found.read_at < found.failing_since
    store.error = None
    healed = await watched.until(lambda later: not later.store_error)
    assert healed.read_at > found.failing_since


async def test_a_store_that_never_answers_keeps_neither_the_facts_young_nor_the_reader_from_ending(
    home: Home, watched: Watched, store: Fickle
) -> None:
    await home.trains("a")
    found = await watched.until(lambda found: found.run("a"))
    store.hangs = True
    asked = len(store.asked)
    await watched.until(lambda _: len(store.asked) > asked)
    assert watched.reader.facts.stale(found.read_at + 60)
    watched.reader.stop()
    assert not watched.reader._thread.is_alive()


async def test_a_run_that_has_ended_is_looked_at_seldom(home: Home, watched: Watched, store: Fickle) -> None:
    await home.trains("over")
    await home.end("over", "finished")
    await home.journal("over", protocol.controller_writer(1), [Event(1.0, "run_ended", 1, {"state": "finished"})])
    await home.trains("on")
    await watched.until(lambda found: found.run("over") and found.run("over").timeline.ended and found.run("on"))
    await watched.next()
    before = len(store.asked)
    for _ in range(5):
        await watched.next()
    asked = {key for _, key in store.asked[before:]}
    assert protocol.head_key("on") in asked
    assert not any("runs/over/" in key for key in asked)


async def test_a_controller_that_has_just_taken_over_takes_no_figures_away(home: Home, watched: Watched) -> None:
    await home.trains("a")
    await home.view("a")
    await watched.until(lambda found: found.run("a") and found.run("a").number("spent_usd") == 1.0)
    await home.view(offers=OFFERS)
    found = await watched.until(lambda found: found.offers)
    assert found.run("a").number("spent_usd") == 1.0  # type: ignore[union-attr]


async def test_the_age_of_the_view_is_by_the_readers_own_clock(home: Home, watched: Watched) -> None:
    await home.trains("a")
    await home.view("a", published_at=time.time() - 5000)
    old = await watched.until(lambda found: found.view_at)
    assert old.silent(time.time())
    await home.view("a", published_at=time.time() - 4000)
    fresh = await watched.until(lambda found: found.view_at > old.view_at)
    assert abs(fresh.view_at - time.time()) < WITHIN_S


# ------------------------------------------------------------------------------------------------------- wishes


async def test_the_same_wish_twice_is_left_once(home: Home, watched: Watched) -> None:
    await home.trains("a")
    await watched.until(lambda found: found.run("a"))
    watched.reader.act(wish(offer="x"))
    watched.reader.act(wish(offer="y"))
    assert await watched.answer("was asked for already") == "migrate a: was asked for already"
    assert await home.wishes() == ["a-1-migrate-0"]


async def test_a_wish_is_told_what_became_of_it(home: Home, watched: Watched) -> None:
    await home.trains("a")
    await watched.until(lambda found: found.run("a"))
    watched.reader.act(wish())
    await watched.answer("told")
    await home.answer("a-1-migrate-0", "done", "box 2 at nimbus west, spot")
    assert await watched.answer("under way") == "migrate a: under way · box 2 at nimbus west, spot"


@pytest.mark.parametrize("result", ["refused", "ignored"])
async def test_after_a_no_the_same_wish_can_be_made_again_by_another_app_too(
    home: Home, watched: Watched, result: str
) -> None:
    await home.trains("a")
    await watched.until(lambda found: found.run("a"))
    watched.reader.act(wish())
    await watched.answer("told")
    await home.answer("a-1-migrate-0", result, "no capacity")
    await watched.answer(result)
    again = Watched(home)
    again.reader.start()
    try:
        await again.until(lambda found: found.run("a"))
        again.reader.act(wish())
        await again.answer("told")
    finally:
        again.reader.stop()
    assert await home.wishes() == ["a-1-migrate-0", "a-1-migrate-1"]


@pytest.mark.parametrize(("given_up", "wishes"), [("", 1), ("no_capacity", 2)])
async def test_a_granted_move_is_the_same_wish_as_long_as_its_box_is_coming(
    home: Home, watched: Watched, given_up: str, wishes: int
) -> None:
    await home.trains("a")
    await home.view("a", boxes=[box(1), box(2, given_up=given_up)])
    await watched.until(lambda found: found.run("a") and len(found.run("a").boxes) == 2)
    watched.reader.act(wish())
    await watched.answer("told")
    await home.answer("a-1-migrate-0", "done")
    await watched.answer("under way")
    watched.reader.answers.clear()
    watched.reader.act(wish())
    await watched.answer("told" if wishes == 2 else "under way")
    assert len(await home.wishes()) == wishes


async def test_a_wish_that_can_t_be_left_says_so(home: Home, watched: Watched, store: Fickle) -> None:
    await home.trains("a")
    await watched.until(lambda found: found.run("a"))
    store.error = Unanswered("s3://b: timed out")
    watched.reader.act(wish())
    assert await watched.answer("not done") == "migrate a: not done: s3://b: timed out"
    store.error = None
    assert await home.wishes() == []


async def test_a_wish_before_anything_was_read_says_so(home: Home, controllers: list[Path]) -> None:
    one = Watched(home)
    one.reader._thread = threading.Thread(target=lambda: one.reader._loop.run_until_complete(one.reader._act(wish())))
    one.reader._thread.start()
    one.reader._thread.join()
    assert await one.answer("not done") == "migrate a: not done, the store can't be reached"


# ------------------------------------------------------------------------------------------------- the controller


async def test_where_a_run_is_live_and_nobody_keeps_it_a_controller_is_started(
    home: Home, watched: Watched, controllers: list[Path]
) -> None:
    await watched.until(lambda found: not found.first)
    assert controllers == []
    await home.trains("a")
    await watched.until(lambda found: found.controller == "on this host")
    assert controllers[0] == home.path


async def test_a_controller_that_can_t_be_started_is_said_and_tried_again(
    home: Home, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path) -> None:
        raise process.ControllerFailed("store: access denied")

    monkeypatch.setattr(process, "ensure_controller", fails)
    await home.trains("a")
    await watched.until(lambda found: found.controller_error == "store: access denied")
    monkeypatch.setattr(process, "ensure_controller", lambda path: None)
    found = await watched.until(lambda found: found.controller == "on this host")
    assert found.controller_error == ""


async def test_a_fault_in_looking_for_a_controller_is_said_and_ends_nothing(
    home: Home, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(fleet: object) -> int:
        raise PermissionError(13, "no")

    monkeypatch.setattr(process, "pid", breaks)
    await watched.until(lambda found: "PermissionError" in found.controller_error)
    monkeypatch.setattr(process, "pid", lambda fleet: 77)
    await watched.until(lambda found: found.controller == "on this host" and not found.controller_error)


async def test_a_controller_on_another_host_is_named_and_left_alone(
    home: Home, watched: Watched, controllers: list[Path]
) -> None:
    await home.view("a")
    await watched.until(lambda found: found.controller == "on elsewhere")
    await home.trains("a")
    await watched.until(lambda found: found.run("a"))
    await watched.next()
    assert controllers == []


async def test_runs_of_another_fleet_in_the_same_store_start_no_controller(
    home: Home, watched: Watched, controllers: list[Path]
) -> None:
    await home.submit("theirs", fleet="theirs")
    await watched.until(lambda found: found.run("theirs"))
    for _ in range(3):
        await watched.next()
    assert controllers == []
