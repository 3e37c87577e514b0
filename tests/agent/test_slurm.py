"""``vl-agent run`` as a job of a real Slurm that preempts it, begins it again, and has it fenced."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from vl_agent.store import Store

from tests.agent.protected import Protected, head_of, one, stored_events, train, until, weights_of
from tests.agent.train import weights_after
from tests.fixtures.slurm import Slurm

pytestmark = pytest.mark.timeout(240)  # Slurm looks at its limits every half minute


def job(work: Path, url: str, *options: object) -> str:
    """A batch script whose training is protected; ``srun``, for only a step is told in time."""
    work.mkdir(exist_ok=True)
    words = [sys.executable, "-m", "vl_agent", "run", "--store", url, "--run", "char", "--checkpoints", "ckpt", "--"]
    return f"cd {shlex.quote(str(work))}\nexec srun {shlex.join([*words, *train(*options)])}"


async def test_a_preempted_job_saves_afresh_is_begun_again_and_ends_as_if_nothing_had_happened(
    slurm: Slurm, store: Store, url: str, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    number = slurm.submit(
        job(tmp_path / "work", url, "--helper", "--wait-at", 7, "--steps", 40), "--requeue", f"--output={said}",
        "--partition=low", env={"VL_HOME": str(tmp_path / "vl"), "VL_METADATA_ENDPOINT": ""},
    )  # fmt: skip
    await until(lambda: _reached(store, 1, "durable"), "it trains", 60)
    slurm.submit("true", "--partition=high", f"--output={tmp_path}/other")
    await until(lambda: _state(store, "released"), "it is told and releases the run", 60)
    told = await stored_events(store, "char", 1)
    assert (one(told, "notice")["source"], one(told, "notice")["detail"]) == ("slurm", "SIGTERM")
    assert one(told, "notice_save")["choice"] == "fresh"
    assert (await head_of(store, "char")).checkpoint.step == 7  # type: ignore[union-attr]
    await until(lambda: slurm.job(number).get("Restarts") == "1", "Slurm takes it to begin it again", 90)
    assert "waits for Slurm to take this job" in said.read_text()

    (tmp_path / "work" / "go").touch()
    await until(lambda: _hurried(slurm, number), "it has run again", 90)
    assert (await head_of(store, "char")).epoch == 2
    assert await weights_of(store, "char", tmp_path) == (40, weights_after(40))
    assert "resumes from step 7 (attempt 2)" in said.read_text()


async def test_a_job_that_slurm_begins_again_trains_nothing_when_its_run_went_on_elsewhere(
    slurm: Slurm, store: Store, url: str, tmp_path: Path, protect: object
) -> None:
    said = tmp_path / "said"
    number = slurm.submit(
        job(tmp_path / "work", url, "--wait-at", 7), "--requeue", f"--output={said}", "--partition=low",
        env={"VL_HOME": str(tmp_path / "vl"), "VL_METADATA_ENDPOINT": ""},
    )  # fmt: skip
    await until(lambda: _reached(store, 1, "durable"), "it trains", 60)
    slurm.ask("scontrol", "requeue", number)
    await until(lambda: slurm.job(number).get("Restarts") == "1", "it is taken", 60)
    desk: Protected = protect("desk")  # type: ignore[operator]
    desk.start(train("--wait-at", 12))
    await until(lambda: _reached(store, 2, "started"), "it trains elsewhere")
    await until(lambda: _hurried(slurm, number), "it has run again", 90)
    assert "char was taken up elsewhere while this box was away" in said.read_text()
    assert said.read_text().count("begins after") == 1
    assert (await head_of(store, "char")).epoch == 2


async def _reached(store: Store, epoch: int, kind: str) -> bool:
    return any(event.kind == kind for event in await stored_events(store, "char", epoch))


async def _state(store: Store, state: str) -> bool:
    return (await head_of(store, "char")).state == state


def _hurried(slurm: Slurm, number: str) -> bool:
    """Whether it is over; while it waits for its time after a requeue, that time is now."""
    state = slurm.job(number).get("JobState", "")
    if state == "PENDING":
        slurm.ask("scontrol", "update", f"JobId={number}", "StartTime=now")
    return state in ("COMPLETED", "FAILED")
