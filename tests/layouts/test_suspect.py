"""A checkpoint of a training that had gone wrong is kept, and never resumed from without a person's word."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vl_agent import control, told
from vl_agent import head as heads
from vl_agent.checkpoints.doubt import Losses
from vl_agent.kept import table
from vl_agent.protocol import Head, Kept, Manifest, decode

from tests.agent.held import Held, torch_like

WHY = "the loss is nan since step 5"


@pytest.fixture
async def held(tmp_path: Path) -> Held:
    made = Held(tmp_path)
    await made.begin()
    return made


async def save(held: Held, step: int, doubt: str = "") -> Head:
    """One save made durable by a pipeline that doubts it or not."""
    held.head = await held.now()
    pipeline = held.pipeline()
    pipeline._doubt = lambda _: doubt
    held.save(step)
    await held.brought(pipeline)
    held.checked()
    return await held.now()


async def test_it_is_kept_but_the_durable_step_stays_where_it_was(held: Held) -> None:
    await save(held, 3)
    head = await save(held, 7, WHY)
    assert head.checkpoint is not None
    assert head.checkpoint.step == 3
    assert [(entry.step, entry.suspect) for entry in head.kept] == [(3, ""), (7, WHY)]
    assert decode(Manifest, held.memory.objects[head.kept[1].manifest]).suspect == WHY
    (event,) = held.told.of("suspect")
    assert (event["step"], event["why"]) == (7, WHY)
    assert [event["step"] for event in held.told.of("durable")] == [3]


async def test_a_restore_passes_it_over_and_says_so(held: Held) -> None:
    await save(held, 3)
    await save(held, 7, WHY)
    assert (await held.restore()).step == 3
    assert list(held.on_disk()) == ["step-3.pt"], "a script would resume from the newest it finds"
    (event,) = held.told.of("passed_over")
    assert (event["step"], event["why"]) == (7, WHY)


async def test_with_no_good_one_a_run_begins_from_nothing(held: Held) -> None:
    await save(held, 7, WHY)
    assert (await held.restore()).step is None
    assert held.on_disk() == {}


async def test_what_is_saved_after_a_resume_before_it_becomes_durable(held: Held) -> None:
    """Else nothing would be durable until the run is past the step at which it went wrong."""
    await save(held, 3)
    await save(held, 7, WHY)
    await held.begin()
    await held.restore()
    head = await save(held, 5)
    assert head.checkpoint is not None
    assert head.checkpoint.step == 5
    assert [entry.step for entry in head.kept] == [3, 7, 5], "and the suspect one is still there"


async def test_a_persons_rollback_resumes_from_it(held: Held) -> None:
    await save(held, 3)
    await save(held, 7, WHY)
    head = await heads.rollback(held.store, "char", generation=0, step=7, expect_epoch=1)
    assert head.checkpoint is not None
    assert (head.checkpoint.step, head.checkpoint.suspect) == (7, WHY)
    shutil.rmtree(held.checkpoints)
    assert (await held.restore()).step == 7
    assert held.told.of("passed_over") == []


async def test_a_bad_one_falls_back_to_no_suspect_one(held: Held) -> None:
    await save(held, 3)
    await save(held, 5, WHY)
    head = await save(held, 7)
    held.memory.objects[head.checkpoint.manifest] = b"{"  # type: ignore[union-attr]
    assert (await held.restore()).step == 3


async def test_it_waits_behind_a_good_one_and_both_are_kept(held: Held) -> None:
    pipeline = held.pipeline()
    pipeline._doubt = lambda step: WHY if step > 5 else ""
    for step in (4, 6, 7):
        held.save(step)
        await pipeline.look()
    assert pipeline.pending is not None
    assert pipeline.pending.step == 4
    await held.brought(pipeline)
    held.checked()
    head = await held.now()
    assert head.checkpoint is not None
    assert head.checkpoint.step == 4
    assert [(entry.step, entry.suspect) for entry in head.kept] == [(4, ""), (7, WHY)]
    assert held.nothing_held()


async def test_a_newer_good_one_takes_its_place(held: Held) -> None:
    pipeline = held.pipeline()
    pipeline._doubt = lambda step: WHY if step == 6 else ""
    for step in (4, 6, 8):
        held.save(step)
        await pipeline.look()
    await held.brought(pipeline)
    assert [(entry.step, entry.suspect) for entry in (await held.now()).kept] == [(8, "")]
    assert held.told.of("save_skipped") == [], "it was not even sent"
    assert held.nothing_held()


def entry(step: int, suspect: str = "", *, pinned: bool = False) -> Kept:
    return Kept(step, 1, f"m{step}{suspect}", pinned, suspect)


def test_suspect_ones_take_no_good_ones_place() -> None:
    entries = (entry(1), entry(2), entry(3, WHY), entry(4), entry(5, WHY), entry(6, WHY))
    assert heads.retained(entries, 2) == (entry(2), entry(4), entry(6, WHY))
    assert heads.retained((entry(1), entry(3, WHY)), 1) == (entry(1), entry(3, WHY))
    assert heads.retained((entry(3, WHY, pinned=True), entry(5, WHY)), 1)[0].pinned


def test_the_list_of_the_kept_says_it() -> None:
    head = Head(1, "", 0, 0, "waiting", entry(3), (entry(3), entry(7, WHY)), 1, "n")
    assert WHY in table("char", head)[1]
    alone = Head(1, "", 0, 0, "waiting", None, (entry(7, WHY),), 1, "n")
    assert WHY in table("char", alone)[1]


# ------------------------------------------------------------------------------------------------------- what was told


@pytest.mark.parametrize(("loss", "said"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")])
def test_a_loss_that_is_no_number_is_told_apart_from_one_that_nobody_knows(
    tmp_path: Path, loss: float, said: str
) -> None:
    progress = control.Progress(str(tmp_path))
    for value in (loss, None, 0.5):
        progress.tell(step=1, **control.loss_words(value))
    heard = list(told.read(control.ProgressReader(tmp_path)))
    assert heard == [told.Step(1, None, None, said), told.Step(1, None, None), told.Step(1, 0.5, None)]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "", "nan", "inf"])), max_size=30), st.integers(0, 200)
)
def test_only_the_newest_loss_up_to_the_step_counts(told: list[tuple[int, str]], step: int) -> None:
    losses, at, newest = Losses(), 0, ""
    for after, nonfinite in told:
        at += after
        losses.told(at, nonfinite)
        newest = nonfinite if at <= step else newest
    assert bool(losses.doubt(step)) is bool(newest)
    assert newest in losses.doubt(step)


SCRIPT = """
import os, sys, zipfile
from vl_agent import control
told = control.Progress(os.environ["VL_CONTROL"])
for step in range(1, 7):
    told.tell(step=step, **control.loss_words(float("nan") if step > 4 else 1 / step))
    if step % 2 == 0:
        with zipfile.ZipFile(f"ckpt/.{step}.tmp", "w") as archive:
            archive.writestr(zipfile.ZipInfo("state"), f"step {step}")
        os.rename(f"ckpt/.{step}.tmp", f"ckpt/step-{step}.pt")
"""


async def test_a_training_whose_loss_is_nan_resumes_from_before(held: Held) -> None:
    await held.begin(f"{shlex.quote(sys.executable)} -c {shlex.quote(SCRIPT)}")
    assert (await held.attempt().run("box-1")).cause == "finished"
    assert held.status.beat().layout == "torch.save"
    head = await held.now()
    assert [entry.step for entry in head.kept if entry.suspect] == [6]
    assert head.checkpoint is not None
    assert head.checkpoint.step == 4
    shutil.rmtree(held.checkpoints)
    assert (await held.restore()).step == 4
    assert held.on_disk() == {"step-4.pt": torch_like("step 4")}
