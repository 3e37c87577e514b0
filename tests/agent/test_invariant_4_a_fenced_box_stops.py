"""Invariant 4: an attempt begins by compare-and-swap to epoch+1. After it the old box can compute but not commit: its
next swap fails, it stops its training process, says so, and stops costing money."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from vl_agent import head as heads
from vl_agent import processes, supervisor
from vl_agent.head import Fenced
from vl_agent.paths import LaunchFolder
from vl_agent.protocol import AgentConfig, CheckpointPolicy, RunSpec
from vl_agent.store import Store

from tests.agent.held import RUN, Held
from tests.agent.protected import is_alive, until
from tests.store.memory import Ask, Fate, MemoryStore

SLEEPS = "echo $$ > pid; sleep 600 & echo $! > child; wait"


async def test_an_attempt_begins_by_epoch_plus_one_with_a_holder_of_its_own(tmp_path: Path) -> None:
    held = Held(tmp_path)
    first = await held.begin()
    second = await held.begin()
    assert (first.epoch, second.epoch) == (1, 2)
    assert first.holder != second.holder


@pytest.mark.parametrize("at", ["blobs/", "checkpoints/", "head.json"])
async def test_a_save_under_way_when_the_epoch_ends_is_refused(tmp_path: Path, at: str) -> None:
    """``at``: the first write of this kind by the old box comes right after the new one has begun."""
    held = Held(tmp_path)
    await held.begin()
    await held.keep(3)
    newer = Held(tmp_path / "newer", MemoryStore(held.memory))
    before = held.head_in_store()
    began: list[asyncio.Task[object]] = []

    class Slow(MemoryStore):
        async def _ask(self, ask: Ask) -> object:
            if ask.op in ("put", "create", "swap") and at in ask.key and not began:
                began.append(asyncio.create_task(heads.takeover(newer.store, RUN)))
                await began[0]
            return await super()._ask(ask)

    held.store = Slow(held.memory)
    pipeline = held.pipeline()
    held.save(5)
    async with held.running(pipeline) as task:
        await pipeline.close()
        with pytest.raises(Fenced):
            await asyncio.wait_for(task, 20)
    after = held.head_in_store()
    assert after.epoch == 2
    assert (after.checkpoint, after.kept) == (before.checkpoint, before.kept), "the old box moved nothing"
    assert held.told.of("commit_refused") == [{"step": 5, "head_epoch": 2, "head_holder": after.holder[:8]}]
    assert held.told.of("durable") == []


async def test_a_fenced_box_deletes_nothing(tmp_path: Path) -> None:
    """Its swap went through, then a new epoch began: what the swap dropped is the new holder's to sweep."""
    held = Held(tmp_path)
    await held.begin()
    old = await held.keep(3)
    newer = MemoryStore(held.memory)
    swapped = False

    class Fences(MemoryStore):
        async def _ask(self, ask: Ask) -> object:
            nonlocal swapped
            answer = await super()._ask(ask)
            if ask.op == "swap" and not swapped:
                swapped = True
                await heads.takeover(newer, RUN)
            return answer

    pipeline = held.pipeline(keep=1)
    pipeline._store = Fences(held.memory)
    held.save(5)
    async with held.running(pipeline) as task:
        await pipeline.close()
        with pytest.raises(Fenced):
            await asyncio.wait_for(task, 20)
    assert held.head_in_store().checkpoint.step == 5  # type: ignore[union-attr]
    assert old.files[0].key in held.memory.objects
    held.checked()


async def taken_over(held: Held) -> None:
    await heads.takeover(MemoryStore(held.memory), RUN)


@pytest.mark.parametrize("seen_by", ["a look at the head", "a refused commit"])
async def test_a_fenced_box_ends_its_training_and_says_so(tmp_path: Path, seen_by: str) -> None:
    held = Held(tmp_path)
    await held.begin(SLEEPS)
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: (held.work / "child").exists() and (held.work / "child").read_text().strip())
    trained = [int((held.work / name).read_text()) for name in ("pid", "child")]
    assert all(is_alive(pid) for pid in trained)
    await taken_over(held)
    if seen_by == "a look at the head":
        await attempt.look_at_head()
    else:
        held.save(5)
    ended = await asyncio.wait_for(running, 30)
    assert ended.cause == "fenced"
    assert not any(is_alive(pid) for pid in trained)
    head = held.head_in_store()
    assert (head.epoch, head.state, head.checkpoint) == (2, "running", None), "the new holder's, untouched"
    told = (tmp_path / "epoch-1" / "journal.jsonl").read_text()
    assert '"kind":"fenced"' in told
    assert '"head_epoch":2' in told
    assert ("commit_refused" in told) == (seen_by == "a refused commit")
    assert held.status.phase == "ended"


async def test_fenced_before_its_training_began_it_begins_none(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin("touch began")
    await held.keep(3)
    attempt = held.attempt()

    def fault(ask: Ask) -> Fate:
        return "lost" if "/checkpoints/" in ask.key else "ok"

    held.store.fault = fault  # what it restores does not come
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.store_error)
    await taken_over(held)
    await attempt.look_at_head()
    assert (await asyncio.wait_for(running, 30)).cause == "fenced"
    assert not (held.work / "began").exists()


async def test_a_save_of_an_old_epoch_that_arrives_late_changes_nothing(tmp_path: Path) -> None:
    """The swap was sent, its answer and itself are late, a new epoch begins, it arrives then."""
    held = Held(tmp_path)
    await held.begin()
    pipeline = held.pipeline()
    held.save(5)
    late = [True]

    def fault(ask: Ask) -> Fate:
        return "late" if ask.op == "swap" and late else "ok"

    held.store.fault = fault
    async with held.running(pipeline):
        await pipeline.close()
        await until(lambda: held.store.network)
    late.clear()
    await taken_over(held)
    held.store.arrive()
    assert (held.head_in_store().epoch, held.head_in_store().checkpoint) == (2, None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LINGER_S", 0.0)
    monkeypatch.setattr(processes, "adopt_orphans", lambda: None)  # the tests' own process adopts nobody


@pytest.mark.parametrize("owned", [False, True])
async def test_a_fenced_box_stops_costing_money(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, quick: None, owned: bool
) -> None:
    """A launched box ends itself; a person's own is left on."""
    monkeypatch.setenv("VL_POWEROFF", f"touch {tmp_path}/off")
    spec = RunSpec(RUN, "test", SLEEPS, CheckpointPolicy("ckpt"))
    await heads.submit(store, spec)
    folder = LaunchFolder(tmp_path / "launch")
    folder.make()
    config = AgentConfig(RUN, "test", 1, store.url, beat_s=0.5, notices=(), owned=owned)
    one = supervisor.Supervisor(config, folder)
    living = asyncio.create_task(one.run())
    await until(lambda: one.status.phase == "prepared")
    head = await heads.start(store, RUN, launch=1, generation=1, expect_epoch=0)
    assert one.command({"run": RUN, "command": "start", "epoch": 1, "token": head.holder})[0]
    await until(lambda: (folder.work / "pid").exists() and (folder.work / "pid").read_text().strip())
    pid = int((folder.work / "pid").read_text())
    await heads.start(store, RUN, launch=2, generation=1, expect_epoch=1)
    await asyncio.wait_for(living, 30)
    assert not is_alive(pid)
    assert (tmp_path / "off").exists() is not owned
    assert '"why": "fenced"' in folder.ended.read_text(), "it is not started again"
