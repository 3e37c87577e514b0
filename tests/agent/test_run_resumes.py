"""``vl-agent run``: one training on one machine, killed and started again anywhere, ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import shlex
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from vl_agent.protocol import CheckpointPolicy, RunSpec, decode, encode, spec_key
from vl_agent.store import Store

from tests.agent.protected import (
    Protected,
    durable_step,
    head_of,
    is_alive,
    kinds,
    one,
    stored_events,
    train,
    until,
    weights_of,
)  # fmt: skip
from tests.agent.train import weights_after, weights_in

Protect = Callable[..., Protected]


async def test_a_training_runs_to_its_end_and_its_last_save_is_durable(
    protect: Protect, store: Store, tmp_path: Path
) -> None:
    desk = protect()
    where = desk.start(train("--steps", 20))
    assert await desk.exit() == 0
    head = await head_of(store, "char")
    assert (head.state, head.epoch) == ("finished", 1)
    spec = decode(RunSpec, (await store.get(spec_key("char"))).data)
    assert spec.fleet == "", "no name of a fleet: no controller takes it for its own"
    assert await weights_of(store, "char", tmp_path) == (20, weights_after(20))
    told = (where / "told").read_text()
    assert "saved 20" in told, "the training's output is on this terminal"
    assert "finished: exit status 0" in told


async def test_killed_at_random_moments_and_resumed_elsewhere_it_ends_with_the_same_weights(
    protect: Protect, store: Store, tmp_path: Path
) -> None:
    seed = time.time_ns()
    chance = random.Random(seed)
    desk = protect()
    killed_at = []
    for epoch in range(1, 6):
        desk.start(train("--steps", 300, "--pause", 0.03))
        before, moment = await durable_step(store, "char"), chance.choice(("claimed", "restored", "saved", "durable"))
        await until(partial(reached, store, moment, epoch), moment)
        time.sleep(chance.uniform(0, 0.1))
        desk.kill()
        killed_at.append((moment, before))
    desk.start(train("--steps", 300, "--pause", 0))
    assert await desk.exit() == 0, (seed, killed_at)
    assert await weights_of(store, "char", tmp_path) == (300, weights_after(300)), (seed, killed_at)
    assert (await head_of(store, "char")).epoch == 6


async def reached(store: Store, moment: str, epoch: int) -> bool:
    """Whether the attempt has come so far, by what its machine wrote down."""
    return moment in kinds(await stored_events(store, "char", epoch))


async def test_a_training_left_running_by_a_killed_agent_is_ended_before_the_next_begins(
    protect: Protect, store: Store
) -> None:
    desk = protect()
    desk.start(train("--wait-at", 12))
    await until(lambda: durable_step(store, "char"))
    former = desk.family()
    assert former
    desk.process.kill()
    desk.process.wait()
    assert all(is_alive(pid) for pid in former), "it outlives the agent"
    where = desk.start(train())
    assert await desk.exit() == 0
    assert not any(is_alive(pid) for pid in former)
    assert "ended what the last start had left running" in (where / "told").read_text()


async def test_what_a_training_leaves_running_is_ended_however_it_hides(protect: Protect, store: Store) -> None:
    """A session and an environment of its own, its parent gone, deaf to SIGTERM."""
    desk = protect()
    where = desk.start(train("--child", "--say", "bare", "--steps", 20, "--pause", 0.05))
    assert await desk.exit() == 0
    assert not is_alive(int((where / "child").read_text()))


async def test_a_terminal_that_reads_nothing_stops_neither_the_training_nor_its_saves(
    protect: Protect, store: Store
) -> None:
    """Ctrl-S, or a pager that waits for a key."""
    desk = protect()
    terminal, held = os.pipe()
    try:
        desk.start(["/bin/sh", "-c", f"yes | head -c 1000000; exec {shlex.join(train('--steps', 20))}"], told=held)
        assert await desk.exit() == 0
        assert (await head_of(store, "char")).state == "finished"
    finally:
        os.close(held)
        os.close(terminal)


async def test_a_start_that_was_killed_before_it_made_the_head_holds_up_no_later_one(
    protect: Protect, store: Store
) -> None:
    spec = RunSpec("char", "solo", "another command", CheckpointPolicy("ckpt"))
    await store.create(spec_key("char"), encode(spec))
    desk = protect()
    desk.start(train("--steps", 5))
    assert await desk.exit() == 0
    assert (await head_of(store, "char")).state == "finished"


async def test_ctrl_c_saves_releases_and_resumes(protect: Protect, store: Store, tmp_path: Path) -> None:
    desk = protect()
    desk.start(train("--helper", "--wait-at", 7))
    await until(lambda: step_in_journal(store, 7))
    os.kill(desk.process.pid, signal.SIGINT)
    assert await desk.exit() == 130
    head = await head_of(store, "char")
    assert head.state == "released"
    assert head.checkpoint is not None
    assert head.checkpoint.step == 7, "the helper saved the very step"
    assert "Ctrl-C" in head.detail
    where = desk.start(train("--steps", 10))
    assert await desk.exit() == 0
    assert "resumes from step 7" in (where / "told").read_text()
    assert await weights_of(store, "char", tmp_path) == (10, weights_after(10))


async def test_a_script_that_answers_ctrl_c_with_exit_0_has_not_finished(protect: Protect, store: Store) -> None:
    desk = protect()
    desk.start(["exec", *train("--wait-at", 7, "--on-term", 0)])
    await until(lambda: durable_step(store, "char"))
    os.kill(desk.process.pid, signal.SIGINT)
    assert await desk.exit() == 130
    assert (await head_of(store, "char")).state == "released"
    desk.start(train("--steps", 10))
    assert await desk.exit() == 0
    assert (await head_of(store, "char")).state == "finished"


async def test_of_two_machines_the_elder_is_fenced_and_trains_no_more(
    protect: Protect, store: Store, tmp_path: Path
) -> None:
    desk, attic = protect("desk"), protect("attic")
    first = desk.start(train("--wait-at", 12))
    await until(lambda: durable_step(store, "char"))
    trained = desk.family()
    attic.start(train("--steps", 40))
    assert await desk.exit() == 1
    assert not any(is_alive(pid) for pid in trained)
    assert "fenced: the run is at epoch 2 now" in (first / "told").read_text()
    assert await attic.exit() == 0
    assert await weights_of(store, "char", tmp_path) == (40, weights_after(40))
    told = await stored_events(store, "char", 1)
    assert one(told, "fenced")["head_epoch"] == 2
    assert kinds(told)[-1] == "ended"


async def test_a_finished_run_is_not_run_again(protect: Protect, store: Store) -> None:
    desk = protect()
    desk.start(train("--steps", 5))
    assert await desk.exit() == 0
    where = desk.start(train("--steps", 5))
    assert await desk.exit() == 0
    assert "char has finished: its last checkpoint is step 5" in (where / "told").read_text()
    assert (await head_of(store, "char")).epoch == 1


async def test_what_was_in_the_checkpoint_folder_is_moved_aside_and_not_lost(protect: Protect, store: Store) -> None:
    desk = protect()
    work = desk.folder / "work"
    (work / "ckpt").mkdir(parents=True)
    (work / "ckpt" / "model_000900.pt").write_bytes(b"another run's")
    desk.start(train("--steps", 5), cwd=work)
    assert await desk.exit() == 0
    assert (await head_of(store, "char")).checkpoint.step == 5  # type: ignore[union-attr]
    assert one(await stored_events(store, "char", 1), "moved_aside")["paths"] == ["model_000900.pt"]
    assert [path.read_bytes() for path in work.glob(".ckpt.vl/aside/**/model_000900.pt")] == [b"another run's"]


async def step_in_journal(store: Store, step: int, epoch: int = 1, run: str = "char") -> bool:
    events = await stored_events(store, run, epoch)
    return any(event.kind == "step" and event.fields["step"] == step for event in events)


def test_the_scripts_own_arithmetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.agent import train as script

    monkeypatch.setattr(script, "FOLDER", tmp_path)
    assert weights_in(script.save(3, weights_after(3), 0)) == (3, weights_after(3))
    assert weights_after(5) == script.one_step(weights_after(4), 5)
