"""The open run's log: what the store has, then what the box tells; the store again where the box is out of reach."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.by_hand import Home
from tests.app.hand_made import box, facts, run
from vl_tui.app import tail as tails
from vl_tui.app.facts import Facts
from vl_tui.app.log import LogStore
from vl_tui.app.tail import Tail, reachable

WITHIN_S = 20.0


class Source:
    """Where a reader's facts would be."""

    def __init__(self, home: Home) -> None:
        self.facts: Facts = facts()
        self.log = LogStore()
        self.store = home.store

    def changed(self) -> None:
        return

    @property
    def lines(self) -> list[str]:
        return [str(self.log.line(index)[0]) for index in range(len(self.log))]

    async def until(self, lines: list[str]) -> None:
        end = time.monotonic() + WITHIN_S
        while self.lines != lines:
            assert time.monotonic() < end, self.lines
            await asyncio.sleep(0.01)


class Link:
    """Stands for the channel to a box: the test says what comes over it."""

    made: list[Link] = []

    def __init__(self, address: Any, *, sink: Any, epoch: int, have: dict[str, int], **_: Any) -> None:
        self.sink, self.epoch, self.have, self.ended = sink, epoch, have, asyncio.Event()
        Link.made.append(self)

    async def run(self) -> None:
        await self.ended.wait()

    def says(self, offset: int, chunk: bytes) -> None:
        self.sink.link("attached", "")
        self.sink.data(self.epoch, "log", offset, chunk)

    @staticmethod
    async def number(count: int) -> Link:
        end = time.monotonic() + WITHIN_S
        while len(Link.made) < count:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        return Link.made[count - 1]


@pytest.fixture
async def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Home, Source, Tail]]:
    monkeypatch.setattr(tails, "LOOK_S", 0.02)
    monkeypatch.setattr(tails, "FROM_STORE_S", 0.02)
    monkeypatch.setattr("vl_tui.ssh.link.BoxLink", Link)
    Link.made = []
    home = Home(tmp_path)
    one = Source(home)
    tail = Tail(one, home.fleet)
    yield home, one, tail
    tail.follow(None)


Made = tuple[Home, Source, Tail]


async def test_the_log_of_a_run_that_is_over_is_every_attempts_in_order(source: Made) -> None:
    home, one, tail = source
    await home.log("a", 2, 0, b"third\n")
    await home.log("a", 1, 6, b"second\n")
    await home.log("a", 1, 0, b"first\n")
    one.facts = facts(run("a", state="finished", epoch=2))
    tail.follow("a")
    await one.until(["── attempt 1 ──", "first", "second", "── attempt 2 ──", "third"])


async def test_former_attempts_come_from_the_store_and_the_one_under_way_from_its_box(source: Made) -> None:
    home, one, tail = source
    await home.log("a", 1, 0, b"old\n")
    one.facts = facts(run("a", epoch=2, boxes=[box(2)]))
    tail.follow("a")
    link = await Link.number(1)
    link.says(0, b"new\n")
    await one.until(["── attempt 1 ──", "old", "── attempt 2 ──", "new"])
    assert one.log.link == ""


async def test_a_box_out_of_reach_is_read_from_the_store_as_it_grows_and_nothing_twice_when_it_comes_back(
    source: Made,
) -> None:
    home, one, tail = source
    await home.log("a", 1, 0, b"one\n")
    one.facts = facts(run("a", boxes=[box(1)]))
    tail.follow("a")
    link = await Link.number(1)
    link.sink.link("down", "no route to host")
    await one.until(["── attempt 1 ──", "one"])
    assert one.log.link == "down: no route to host"
    await home.log("a", 1, 4, b"two\n")
    await one.until(["── attempt 1 ──", "one", "two"])
    link.says(0, b"one\ntwo\nthree\n")
    await one.until(["── attempt 1 ──", "one", "two", "three"])


async def test_a_run_whose_box_nobody_told_is_read_from_the_store(source: Made) -> None:
    home, one, tail = source
    await home.log("a", 1, 0, b"one\n")
    one.facts = facts(run("a", boxes=[]))
    tail.follow("a")
    await one.until(["── attempt 1 ──", "one"])
    await home.log("a", 1, 4, b"two\n")
    await one.until(["── attempt 1 ──", "one", "two"])
    assert Link.made == []


async def test_the_log_goes_on_at_the_next_box(source: Made) -> None:
    home, one, tail = source
    one.facts = facts(run("a", boxes=[box(1)]))
    tail.follow("a")
    (await Link.number(1)).says(0, b"here\n")
    await one.until(["── attempt 1 ──", "here"])
    await home.log("a", 1, 0, b"here\nlast words\n")
    one.facts = facts(run("a", epoch=2, boxes=[box(1, given_up="lost"), box(2)]))
    (await Link.number(2)).says(0, b"there\n")
    await one.until(["── attempt 1 ──", "here", "last words", "── attempt 2 ──", "there"])


async def test_a_channel_that_breaks_down_is_said_and_the_store_goes_on(source: Made) -> None:
    home, one, tail = source
    one.facts = facts(run("a", boxes=[box(1, host_keys=7)]))
    await home.log("a", 1, 0, b"one\n")
    tail.follow("a")
    await one.until(["── attempt 1 ──", "one"])


async def test_another_run_begins_with_its_own_log(source: Made) -> None:
    home, one, tail = source
    await home.log("a", 1, 0, b"of a\n")
    await home.log("b", 1, 0, b"of b\n")
    one.facts = facts(run("a", state="finished"), run("b", state="finished"))
    tail.follow("a")
    await one.until(["── attempt 1 ──", "of a"])
    tail.follow("b")
    await one.until(["── attempt 1 ──", "of b"])
    tail.follow(None)
    await one.until([])
    assert tail.ending() == []


@pytest.mark.parametrize(
    "odd", [{"ssh": None}, {"ssh": {}}, {"given_up": "lost"}, {"launch": 2}, {"ssh": {"host": ""}}], ids=str
)
def test_a_box_that_nobody_can_talk_to_is_not_reachable(odd: dict[str, Any]) -> None:
    assert reachable(run("a", boxes=[box(1)])) is not None
    assert reachable(run("a", boxes=[box(1, **odd)])) is None
    assert reachable(run("a", state="finished", boxes=[box(1)])) is None


def test_an_address_that_makes_no_sense_harms_nothing() -> None:
    odd = box(1, ssh={"host": 7, "port": "x", "user": None, "key_paths": "x"})
    found = tails.address(odd)
    assert (found.host, found.port, found.key_paths) == ("7", 22, ())
