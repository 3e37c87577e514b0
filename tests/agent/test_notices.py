"""What follows a notice: the script saves at once where all of it fits into the window, else what is on its way becomes
durable, and the run is released in time."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from vl_agent.attempt import Attempt
from vl_agent.budget import MARGIN_S, Choice, Measured, Measures, choose, margin_s
from vl_agent.notices import Notice

from tests.agent.held import Held
from tests.agent.protected import train, until
from tests.store.memory import Ask, Fate, MemoryStore


def words(*options: object) -> str:
    return "exec " + shlex.join(train(*options))


def journal(held: Held) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (held.folder / "epoch-1" / "journal.jsonl").read_text().splitlines()]


def fields(held: Held, kind: str) -> dict[str, Any]:
    (event,) = [event for event in journal(held) if event["kind"] == kind]
    return event


async def test_with_the_helper_the_script_saves_at_once_and_the_run_is_released(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin(words("--helper", "--wait-at", 7))
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.step == 7)
    deadline = time.time() + 60
    for _ in range(3):
        attempt.notice(Notice("aws", deadline, "spot instance-action terminate"))
    ended = await asyncio.wait_for(running, 30)
    assert (ended.cause, ended.code) == ("notice", 75)
    head = held.head_in_store()
    assert (head.state, head.checkpoint.step) == ("released", 7)  # type: ignore[union-attr]
    assert head.detail.startswith("notice")
    assert fields(held, "notice")["source"] == "aws"
    assert fields(held, "notice_save")["choice"] == "fresh"
    assert "within 5" in fields(held, "notice_save")["why"] or "fits into 5" in fields(held, "notice_save")["why"]
    assert held.status.notice_deadline == deadline
    held.checked()


async def test_a_launcher_that_makes_1_of_every_exit_status_is_told_apart_from_a_failure(tmp_path: Path) -> None:
    """As torchrun does with those of its ranks."""
    held = Held(tmp_path)
    await held.begin(words("--helper", "--wait-at", 7).removeprefix("exec ") + " || exit 1")
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.step == 7)
    attempt.notice(Notice("aws", time.time() + 60, "spot instance-action terminate"))
    ended = await asyncio.wait_for(running, 30)
    assert (ended.cause, ended.code) == ("notice", 1)
    assert held.head_in_store().state == "released"


async def test_a_notice_before_the_script_has_begun_is_not_lost(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin(words("--helper", "--wait-at", 7))
    attempt = held.attempt()
    attempt.notice(Notice("signal", None, "SIGTERM"))
    ended = await asyncio.wait_for(attempt.run("box-1"), 30)
    assert ended.cause == "notice"
    assert held.head_in_store().state == "released"


async def test_without_the_helper_it_trains_on_and_each_save_becomes_durable(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin(words("--steps", 20, "--wait-at", 12))
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.durable_step == 10)
    attempt.notice(Notice("signal", None, "SIGTERM"))
    assert fields(held, "notice_save")["choice"] == "upload"
    (held.work / "go").touch()
    assert (await asyncio.wait_for(running, 30)).cause == "finished"
    assert held.head_in_store().checkpoint.step == 20  # type: ignore[union-attr]


async def test_a_script_that_says_told_to_stop_but_was_not_has_not_finished(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin("exit 75")
    ended = await asyncio.wait_for(held.attempt().run("box-1"), 30)
    assert ended.cause == "unknown"
    assert "but it was not" in ended.detail
    assert held.head_in_store().state == "released"


async def test_what_is_cut_short_by_its_provider_after_a_notice_says_nothing_about_the_run(tmp_path: Path) -> None:
    """Slurm, and systems that shut down, send SIGTERM to the training as well."""
    held = Held(tmp_path)
    await held.begin(words("--wait-at", 12, "--on-term", 0), total_steps=40)
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.durable_step == 10)
    attempt.notice(Notice("slurm", time.time() + 30, "SIGTERM"))
    os.kill(attempt.pid, signal.SIGTERM)
    assert (await asyncio.wait_for(running, 30)).cause == "notice"
    assert held.head_in_store().state == "released"


async def test_a_notice_that_is_withdrawn_leaves_a_script_that_trains_on_alone(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin(words("--steps", 20, "--wait-at", 12))
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.durable_step == 10)
    attempt.notice(Notice("azure", time.time() + MARGIN_S + 0.5, "scheduled event Preempt"))
    attempt.withdrawn("gcp", "another source's word changes nothing")
    assert held.status.notice_deadline is not None
    attempt.withdrawn("azure", "Preempt is withdrawn")
    assert held.status.notice_deadline is None
    await asyncio.sleep(1.0)  # past the moment at which it would have been ended
    (held.work / "go").touch()
    assert (await asyncio.wait_for(running, 30)).cause == "finished"
    assert fields(held, "notice_withdrawn")["source"] == "azure"


async def test_of_several_notices_the_nearest_moment_counts(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin(words("--steps", 20, "--wait-at", 12))
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.durable_step == 10)
    attempt.notice(Notice("azure", time.time() + 300, "scheduled event Terminate"))
    nearer = time.time() + MARGIN_S + 0.2
    attempt.notice(Notice("azure", nearer, "scheduled event Preempt"))
    attempt.notice(Notice("signal", None, "SIGTERM"))
    assert held.status.notice_deadline == nearer
    assert (await asyncio.wait_for(running, 30)).cause == "notice"
    assert fields(held, "notice")["detail"] == "scheduled event Terminate"


async def test_advice_and_trouble_are_told_and_end_nothing(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin(words("--helper", "--steps", 20, "--wait-at", 7))
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.step == 7)
    attempt.advice("aws", "rebalance recommendation")
    attempt.trouble("gcp", "no answer")
    (held.work / "go").touch()
    assert (await asyncio.wait_for(running, 30)).cause == "finished"
    assert fields(held, "advice")["detail"] == "rebalance recommendation"
    assert fields(held, "warning")["text"] == "notices of gcp can't be heard: no answer"


# ------------------------------------------------------------------------------------------------------ the budget


@pytest.mark.parametrize("window_s", [5, 30, 120])
@pytest.mark.parametrize(
    ("save_s", "upload_s", "fits_into"),
    [(0.5, 2.0, 5), (1.5, 2.5, 30), (5.0, 20.0, 30), (20.0, 60.0, 120), (30, 120, 155)],
)  # fmt: skip
def test_a_fresh_save_is_chosen_when_save_and_upload_fit_and_else_what_is_on_its_way(
    window_s: float, save_s: float, upload_s: float, fits_into: float
) -> None:
    seen, margin = Measured(save_s, upload_s), margin_s(window_s)
    pending = Measured(save_s, upload_s, 0.1, True)
    fits = fits_into <= window_s
    assert choose(window_s, seen, helper=True, margin_s=margin).choice == ("fresh" if fits else "none")
    assert choose(window_s, pending, helper=True, margin_s=margin).choice == ("fresh" if fits else "upload")
    assert choose(window_s, pending, helper=False, margin_s=margin).choice == "upload"


def test_of_a_long_window_five_seconds_are_kept_free_and_of_a_short_one_a_quarter() -> None:
    assert [margin_s(window) for window in (120, 30, 20, 5, 0, -3)] == [5.0, 5.0, 5.0, 1.25, 0.0, 0.0]


def test_the_reason_and_its_figures_are_told() -> None:
    fits = choose(30.0, Measured(2.0, 18.0), helper=True)
    assert fits == Choice(
        "fresh", "save 2.0 s, upload 18.0 s: fits into 25.0 s",
        {"window_s": 25.0, "save_s": 2.0, "upload_s": 18.0, "pending_s": None},
    )  # fmt: skip
    late = choose(30.0, Measured(2.0, 18.0, 12.0, True), helper=True)
    assert late.choice == "upload"
    assert late.why == (
        "save 2.0 s, upload 18.0 s, 12.0 s of the one on its way: not within 25.0 s; the one on its way is finished"
    )
    assert choose(5.0, Measured(0.0, 0.1), helper=True).choice == "none", "the last commit has its margin"
    assert (
        choose(5.0, Measured(1.0, 2.0), helper=True, margin_s=1.25).why == "save 1.0 s, upload 2.0 s: fits into 3.8 s"
    )
    assert choose(-20.0, Measured(None, None), helper=True).why.endswith("tries within -25.0 s")


def test_what_is_not_known_is_said() -> None:
    assert choose(None, Measured(1.0, 1.0, 1.0, True), helper=True).choice == "upload"
    assert choose(None, Measured(1.0, 1.0), helper=True).choice == "fresh"
    assert "save and upload are not measured" in choose(60.0, Measured(), helper=True).why
    assert "the upload is not measured" in choose(60.0, Measured(save_s=1.0), helper=True).why


def test_the_worst_of_the_last_few_counts_and_the_step_under_way_as_well() -> None:
    measures = Measures()
    assert measures.measured(0.0, pending=True) == Measured(pending=True)
    for step, at in ((100, 0.0), (200, 300.0), (300, 500.0)):  # told every hundred steps: 3 and 2 s a step
        measures.hear("step", {"step": step}, at)
    for took in (9.0, 1.0, 2.0, 1.5, 1.0, 1.0):
        measures.hear("saved", {"took_s": took}, 600.0)
        measures.hear("durable", {"took_s": 10 * took}, 610.0)
    measures.hear("saved", {"took_s": None}, 620.0)
    assert measures.measured(625.0, pending=False) == Measured(2.0 + 3.0, 20.0)
    assert measures.measured(625.0, pending=True).pending_s == 15.0, "five of its twenty seconds are over"
    assert measures.measured(900.0, pending=True).pending_s == 0.0


class Wall:
    """Time that jumps when it is told to."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Gated(MemoryStore):
    """A slow store: blobs after the first arrive when ``open`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.blobs = 0

    async def _ask(self, ask: Ask) -> object:
        if ask.op in ("put", "create") and "blobs/" in ask.key:
            self.blobs += 1
            if self.blobs > 1:
                await self.open.wait()
        return await super()._ask(ask)


async def slow(tmp_path: Path, *, upload_s: float, wall: Wall) -> tuple[Held, Attempt, asyncio.Task[Any]]:
    """A training with the helper at step 7, whose save of step 5 is durable and that of step 6 on its way; the uploads
    are known to have taken ``upload_s``."""
    held = Held(tmp_path, Gated())
    await held.begin(words("--helper", "--steps", 4000, "--wait-at", 7))
    attempt = held.attempt(wall=wall)
    attempt.measures.hear("durable", {"took_s": upload_s}, time.monotonic())
    attempt.measures.hear("saved", {"took_s": 1.0}, time.monotonic())
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.durable_step == 5 and held.status.step == 7)
    held.save(6)
    await until(lambda: held.store.blobs == 2)  # type: ignore[attr-defined]
    return held, attempt, running


@pytest.mark.parametrize(("window_s", "upload_s"), [(30, 5.0), (120, 50.0)])
async def test_a_slow_store_that_is_quick_enough_gets_a_fresh_save(
    tmp_path: Path, window_s: float, upload_s: float
) -> None:
    held, attempt, running = await slow(tmp_path, upload_s=upload_s, wall=Wall())
    attempt.notice(Notice("aws", time.time() + window_s, "spot instance-action terminate"))
    await until(lambda: held.status.saved_step == 7)
    held.store.open.set()  # type: ignore[attr-defined]
    assert (await asyncio.wait_for(running, 30)).cause == "notice"
    assert held.head_in_store().checkpoint.step == 7  # type: ignore[union-attr]
    save = fields(held, "notice_save")
    assert save["choice"] == "fresh"
    assert (save["upload_s"], save["save_s"]) == (upload_s, pytest.approx(1.0, abs=0.9))
    assert f"fits into {window_s - 5}.0 s" in save["why"] or f"fits into {window_s - 6}." in save["why"]
    held.checked()


@pytest.mark.parametrize(("window_s", "upload_s"), [(30, 28.0), (120, 115.0)])
async def test_a_store_that_is_too_slow_gets_what_is_on_its_way_and_the_script_trains_on(
    tmp_path: Path, window_s: float, upload_s: float
) -> None:
    wall = Wall()
    held, attempt, running = await slow(tmp_path, upload_s=upload_s, wall=wall)
    attempt.notice(Notice("aws", wall() + window_s, "spot instance-action terminate"))
    save = fields(held, "notice_save")
    assert save["choice"] == "upload"
    assert "the one on its way is finished" in save["why"]
    held.store.open.set()  # type: ignore[attr-defined]
    await until(lambda: held.status.durable_step == 6)
    (held.work / "go").touch()
    await until(lambda: (held.status.step or 0) > 7, "it trains on")
    wall.ahead = window_s - MARGIN_S
    assert (await asyncio.wait_for(running, 30)).cause == "notice"
    assert held.head_in_store().state == "released"
    held.checked()


async def test_in_five_seconds_a_store_that_is_too_slow_gets_what_is_on_its_way_and_the_run_is_released(
    tmp_path: Path,
) -> None:
    held, attempt, running = await slow(tmp_path, upload_s=3.5, wall=Wall())
    attempt.notice(Notice("runpod", time.time() + 5, "SIGTERM"))
    held.store.open.set()  # type: ignore[attr-defined]
    ended = await asyncio.wait_for(running, 30)
    assert ended.cause == "notice"
    (save,) = [event for event in journal(held) if event["kind"] == "notice_save"][:1]
    assert (save["choice"], save["upload_s"]) == ("upload", 3.5)
    assert "the one on its way is finished" in save["why"]
    assert held.head_in_store().checkpoint.step == 6  # type: ignore[union-attr]
    assert held.head_in_store().state == "released", "the next box need not wait for this one to be seen gone"


class Slow(MemoryStore):
    """Each blob takes ``blob_s``."""

    blob_s = 0.3

    async def _ask(self, ask: Ask) -> object:
        if ask.op in ("put", "create") and "blobs/" in ask.key:
            await asyncio.sleep(self.blob_s)
        return await super()._ask(ask)


@pytest.mark.parametrize("window_s", [5, 30, 120])
async def test_what_saves_and_uploads_took_before_decides_and_their_figures_are_told(
    tmp_path: Path, window_s: float
) -> None:
    """Nothing is told to it: the figures are those of its own saves to this store."""
    held = Held(tmp_path, Slow())
    await held.begin(words("--helper", "--steps", 4000, "--wait-at", 12))
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.durable_step == 10 and held.status.step == 12)
    attempt.notice(Notice("runpod", time.time() + window_s, "SIGTERM"))
    assert (await asyncio.wait_for(running, 30)).cause == "notice"
    assert held.head_in_store().checkpoint.step == 12  # type: ignore[union-attr]
    save = fields(held, "notice_save")
    assert save["choice"] == "fresh"
    assert 0.3 <= save["upload_s"] < window_s
    assert save["why"].endswith(f"fits into {save['window_s']:.1f} s")
    assert fields(held, "notice")["window_s"] == pytest.approx(window_s, abs=0.5)
    held.checked()


async def test_a_store_whose_uploads_were_too_slow_before_gets_no_fresh_save(tmp_path: Path) -> None:
    store = Slow()
    store.blob_s = 1.5
    held = Held(tmp_path, store)
    await held.begin(words("--helper", "--steps", 4000, "--wait-at", 7))
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.durable_step == 5 and held.status.step == 7)
    attempt.notice(Notice("runpod", time.time() + 1.5, "SIGTERM"))
    assert (await asyncio.wait_for(running, 30)).cause == "notice"
    assert held.head_in_store().checkpoint.step == 5  # type: ignore[union-attr]
    *_, save = [event for event in journal(held) if event["kind"] == "notice_save"]
    assert save["choice"] == "none"
    assert save["upload_s"] >= 1.5
    assert save["why"].endswith("the last durable save stays")


async def test_once_what_was_on_its_way_is_durable_a_fresh_save_may_fit(tmp_path: Path) -> None:
    """Nobody says how long is left: first things first."""
    held, attempt, running = await slow(tmp_path, upload_s=0.5, wall=Wall())
    attempt.notice(Notice("signal", None, "SIGTERM"))
    held.store.open.set()  # type: ignore[attr-defined]
    assert (await asyncio.wait_for(running, 30)).cause == "notice"
    choices = [event["choice"] for event in journal(held) if event["kind"] == "notice_save"]
    assert choices == ["upload", "fresh"]
    assert held.head_in_store().checkpoint.step == 7  # type: ignore[union-attr]


async def test_a_notice_makes_the_uploads_hurry(tmp_path: Path) -> None:
    """A store that fails is asked again sooner."""
    held = Held(tmp_path)
    await held.begin()
    pipeline = held.pipeline()
    failing = True

    def fault(ask: Ask) -> Fate:
        return "lost" if failing and "blobs/" in ask.key else "ok"

    held.store.fault = fault
    pipeline.hurry()
    held.save(5)
    async with held.running(pipeline):
        await until(lambda: held.status.store_error)
        failing = False
        await until(lambda: pipeline.durable_step == 5, within_s=10)
