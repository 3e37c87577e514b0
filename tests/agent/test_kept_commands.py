"""A person's word on the durable checkpoints of a run that no controller keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from vl_agent import head as heads
from vl_agent.protocol import Kept
from vl_agent.store import open_store

from tests.head.runs import RUN, SPEC


def vl_agent(folder: Path, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "vl_agent", command, "--store", f"file://{folder}", "--run", RUN, *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A store with a run that has made steps 10, 20 and 30 durable and trains on."""
    store = open_store(f"file://{tmp_path}", {})
    await heads.submit(store, SPEC)
    mine = await heads.takeover(store, RUN)
    for step in (10, 20, 30):
        kept = Kept(step, mine.epoch, f"runs/{RUN}/checkpoints/{step}")
        await heads.commit(store, RUN, epoch=mine.epoch, holder=mine.holder, kept=kept, keep=3)
    await store.close()
    return tmp_path


def test_what_is_kept_is_listed_and_a_pin_is_seen_in_it(folder: Path) -> None:
    assert vl_agent(folder, "pin", "--step", "20").returncode == 0
    listed = json.loads(vl_agent(folder, "checkpoints", "--json").stdout)
    assert [(entry["step"], entry["pinned"]) for entry in listed["kept"]] == [(10, False), (20, True), (30, False)]
    assert listed["resumes_from"] == 30
    assert vl_agent(folder, "pin", "--step", "20", "--off").returncode == 0
    shown = vl_agent(folder, "checkpoints").stdout.splitlines()
    assert "pinned" not in "".join(shown)
    assert shown[1].split()[0] == "30"
    assert "resumes from here" in shown[1]


async def test_a_rollback_fences_what_trains_and_the_run_resumes_from_the_older_checkpoint(folder: Path) -> None:
    store = open_store(f"file://{folder}", {})
    before, _ = await heads.read(store, RUN)
    done = vl_agent(folder, "rollback", "--step", "10")
    assert done.returncode == 0, done.stderr
    with pytest.raises(heads.Fenced):
        await heads.commit(
            store, RUN, epoch=before.epoch, holder=before.holder, kept=Kept(40, before.epoch, "late"), keep=3
        )
    after = await heads.takeover(store, RUN)
    assert after.checkpoint is not None
    assert after.checkpoint.step == 10
    assert "left behind by a rollback" in vl_agent(folder, "checkpoints").stdout.splitlines()[1]
    await store.close()


@pytest.mark.parametrize("command", ["pin", "rollback"])
def test_a_step_that_is_not_kept_is_a_mistake_said_in_one_line(folder: Path, command: str) -> None:
    done = vl_agent(folder, command, "--step", "11")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no kept checkpoint has step 11" in done.stderr


async def test_a_run_that_a_controller_keeps_is_rolled_back_by_the_controller_only(folder: Path) -> None:
    store = open_store(f"file://{folder}", {})
    await heads.stamp(store, RUN, generation=3)
    await store.close()
    done = vl_agent(folder, "rollback", "--step", "10")
    assert done.returncode == 2
    assert "vl-tui rollback run 10" in done.stderr
