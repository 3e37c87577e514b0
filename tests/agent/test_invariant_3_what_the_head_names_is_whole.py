"""Invariant 3: a manifest named by the head has all its blobs in the store, whole and hash-checked, before the swap
that names it. A killed upload at any byte leaves the head at the previous one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vl_agent import head as heads
from vl_agent.checkpoints.upload import TRIES
from vl_agent.protocol import Kept
from vl_agent.store import StoreError, open_store

from tests.agent.held import RUN, Held, torch_like
from tests.agent.protected import until
from tests.store.memory import Ask, Crash, Fate, Memory, MemoryStore


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vl_agent.checkpoints.pipeline._MOST_PAUSE_S", 0.1)


class Watched(Memory):
    """Looks at the invariant after every single request."""

    look: Callable[[], None] | None = None

    def perform(self, ask: Ask) -> Any:
        try:
            return super().perform(ask)
        finally:
            if self.look is not None:
                self.look()


async def held_and_watched(folder: Path) -> Held:
    memory = Watched()
    held = Held(folder, MemoryStore(memory))
    await held.begin()
    memory.look = held.checked
    return held


async def test_after_every_single_request_all_that_the_head_names_is_whole(tmp_path: Path) -> None:
    held = await held_and_watched(tmp_path)
    pipeline = held.pipeline(keep=2)
    for step in range(1, 7):
        held.save(step, "the same" if step % 2 == 0 else "")
        await pipeline.look()
        async with held.running(pipeline):
            await until(lambda step=step: pipeline.durable_step == step)
    head = held.head_in_store()
    assert [entry.step for entry in head.kept] == [5, 6]


FATES: tuple[Fate, ...] = ("crash before", "crash after", "crash, late", "lost", "lost reply", "late", "twice")


@pytest.mark.parametrize("fate", FATES)
async def test_whatever_becomes_of_any_one_request_the_head_names_only_what_is_whole(
    tmp_path: Path, fate: Fate
) -> None:
    for number in range(40):
        folder = tmp_path / str(number)
        held = await held_and_watched(folder)
        await held.brought(saved(held, 1))
        asked, hit = 0, False

        def fault(ask: Ask, number: int = number) -> Fate:
            nonlocal asked, hit
            asked += 1
            hit = hit or asked == number + 1
            return fate if asked == number + 1 else "ok"

        held.store.fault = fault
        try:
            await held.brought(saved(held, 2, keep=1))
        except Crash:
            assert fate.startswith("crash")
        held.store.arrive()
        held.checked()
        head = held.head_in_store()
        assert head.checkpoint is not None
        assert head.checkpoint.step in ((1, 2) if fate.startswith("crash") else (2,))
        if not hit:
            assert number > 4, "a commit takes more requests than that"
            return
    raise AssertionError("a commit of one file asks more than 40 requests")


def saved(held: Held, step: int, keep: int = 3, words: str = "") -> Any:
    pipeline = held.pipeline(keep=keep)
    held.save(step, words)
    return pipeline


def outage_after_a_swap() -> Callable[[Ask], Fate]:
    """The next swap is done, but not answered; from then on nothing arrives."""
    began = False

    def fault(ask: Ask) -> Fate:
        nonlocal began
        if ask.op == "swap":
            began = True
            return "lost reply"
        return "lost" if began else "ok"

    return fault


async def test_what_a_swap_dropped_is_not_named_again_though_its_answer_was_lost(tmp_path: Path) -> None:
    """The outage begins between the swap and its answer; meanwhile the sweep of this epoch, which takes long, comes to
    what that swap dropped; then the script saves once more what it had saved in the epoch before."""
    held = await held_and_watched(tmp_path)
    await held.brought(saved(held, 1, words="the same"))
    await held.begin()
    pipeline = held.pipeline(keep=1)
    async with held.running(pipeline) as task:
        held.store.fault = outage_after_a_swap()
        held.save(2)
        await pipeline.look()
        await until(lambda: held.status.store_error)
        sweeper = MemoryStore(held.memory)
        assert await heads.sweep(sweeper, RUN, epoch=held.head.epoch, holder=held.head.holder) == 2
        held.store.fault = None
        await until(lambda: pipeline.durable_step == 2)
        held.save(3, "the same")
        await pipeline.look()
        await until(lambda: task.done() or pipeline.durable_step == 3)
        held.checked()


async def test_a_save_that_was_given_up_after_its_swap_keeps_its_blobs(tmp_path: Path) -> None:
    """The outage begins between the swap and its answer, a newer save takes its place: what the first one sent looks
    like the rest of an upload that came to nothing, and is what the head names."""
    held = await held_and_watched(tmp_path)
    pipeline = held.pipeline(keep=3)
    async with held.running(pipeline) as task:
        held.store.fault = outage_after_a_swap()
        held.save(2)
        await pipeline.look()
        await until(lambda: held.status.store_error)
        held.save(3)
        await pipeline.look()
        held.store.fault = None
        await until(lambda: task.done() or pipeline.durable_step == 3)
        await until(lambda: task.done() or pipeline.pending is None)
    held.checked()
    assert [entry.step for entry in held.head_in_store().kept] == [2, 3]


async def test_what_a_given_up_save_sent_is_deleted_once_a_newer_one_is_durable(tmp_path: Path) -> None:
    held = await held_and_watched(tmp_path)
    pipeline = held.pipeline(keep=3)
    async with held.running(pipeline) as task:
        held.store.fault = lambda ask: "lost" if "/checkpoints/" in ask.key else "ok"
        held.save(2)
        await pipeline.look()
        await until(lambda: held.status.store_error)
        held.save(3)
        await pipeline.look()
        held.store.fault = None
        await until(lambda: task.done() or pipeline.durable_step == 3)
        await until(lambda: task.done() or pipeline.pending is None)
    held.checked()
    assert len([key for key in held.memory.objects if "/blobs/" in key]) == 1


async def test_while_the_sweep_goes_on_nothing_of_an_older_epoch_is_named_anew(tmp_path: Path) -> None:
    """What it deletes it has decided on an older head."""
    held = await held_and_watched(tmp_path)
    await held.brought(saved(held, 1, words="the same"))
    await held.begin()
    swept = [False]
    pipeline = held.pipeline(swept=lambda: swept[0])
    for step, sent in ((2, True), (3, False)):
        held.save(step, "the same")
        await held.brought(pipeline)
        assert (held.told.of("durable")[-1]["sent"] > 0) is sent
        swept[0] = True
        held.checked()


async def test_a_file_that_is_written_while_it_is_uploaded_is_not_committed(tmp_path: Path) -> None:
    class Overwrites(MemoryStore):
        async def put_part(self, key: str, data: bytes | bytearray, *, limit_s: float) -> None:
            with (held.checkpoints / "step-5.pt").open("r+b") as file:  # in place: the held link shows it as well
                file.write(b"X" * 40)
            await super().put_part(key, data, limit_s=limit_s)

    held = Held(tmp_path, Overwrites())
    await held.begin()
    await held.brought(saved(held, 5))
    held.checked()
    assert (await held.now()).checkpoint is None
    assert "written while it was uploaded" in held.told.of("save_skipped")[0]["why"]


async def test_a_refused_upload_is_never_named(tmp_path: Path) -> None:
    class Refuses(MemoryStore):
        times = TRIES + 1

        async def put_part(self, key: str, data: bytes | bytearray, *, limit_s: float) -> None:
            if self.times:
                self.times -= 1
                raise StoreError("memory: no room.")
            await super().put_part(key, data, limit_s=limit_s)

    held = Held(tmp_path, Refuses(Watched()))
    await held.begin()
    held.memory.look = held.checked  # type: ignore[attr-defined]
    await held.brought(saved(held, 5))
    head = await held.now()
    assert head.checkpoint == Kept(5, 1, head.kept[0].manifest)
    assert held.told.kinds("at_risk", "not_at_risk", "durable") == ["at_risk", "durable", "not_at_risk"]


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from vl_agent.store import open_store

def sent(n, so_far=[0]):
    so_far[0] += n
    if so_far[0] > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(open_store(sys.argv[1]).put_file("runs/char/blobs/x", Path(sys.argv[2]), sent=sent))
"""


@pytest.mark.parametrize("after", [0, 9 << 20])
async def test_an_upload_killed_at_any_byte_leaves_no_blob(tmp_path: Path, after: int) -> None:
    path, url = tmp_path / "save", f"file://{tmp_path}/store"
    path.write_bytes(os.urandom(1 << 20) * 20)
    done = subprocess.run([sys.executable, "-c", KILLED, url, str(path), str(after)])
    assert done.returncode == -signal.SIGKILL
    assert await open_store(url).list(f"runs/{RUN}/") == []


def test_a_save_is_what_torch_makes() -> None:
    assert torch_like("x").startswith(b"PK")
