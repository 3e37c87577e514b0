"""The main job, as a person sees it: a real run loses its boxes and its controller, and ends as if it had not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.demo.demos import Demo

pytestmark = pytest.mark.timeout(700)  # some four minutes on two quiet cores
FOREIGN = Path(__file__).parent / "foreign" / "train.py"


@pytest.fixture
async def demos(tmp_path: Path) -> AsyncIterator[list[Demo]]:
    """Demos that the test started; they end with it."""
    started: list[Demo] = []
    yield started
    for demo in started:
        await demo.end()


def check(found: dict[str, Any]) -> None:
    """What every demo promises, whatever its script."""
    assert found["finished"] is True
    assert found["providers_used"] >= 2
    assert {fault["kind"] for fault in found["faults"]} == {"notice", "kill", "partition", "controller"}
    assert found["final_weights_sha256"] == found["uninterrupted_weights_sha256"] is not None
    assert found["orphans"] == found["double_launches"] == found["attempts_lost_to_controller"] == 0
    assert found["zombie_commits_refused"] >= 1


async def test_a_demo_killed_twice_goes_on_from_the_store_and_ends_as_if_nothing_had_happened(
    tmp_path: Path, demos: list[Demo]
) -> None:
    demo = Demo(tmp_path / "state", seed=5, folder=tmp_path)
    demos.append(demo)
    await demo.start()
    await demo.says("submitted")
    await demo.kill()  # the controller is looking for the first place
    await demo.start(resume=True)
    await demo.says("attempt 2 at")
    await demo.kill()  # between the loss of a box and the next one's first step
    await demo.start(resume=True)
    found = await demo.document()
    check(found)
    assert found["attempts"] >= 4
    assert found["steps_lost_with_notice"] == 0
    assert found["repeated_steps_verified"] > 0
    assert found["repeated_steps_mismatched"] == 0
    assert demo.left() == []


async def test_a_script_that_knows_nothing_of_us_survives_and_what_it_does_not_tell_is_null(
    tmp_path: Path, demos: list[Demo]
) -> None:
    mine = tmp_path / "mine"
    (mine / "ckpt").mkdir(parents=True)
    shutil.copy(FOREIGN, mine / "train.py")
    (mine / "ckpt" / "model_999999.pt").write_bytes(b"of another training: must not be copied in")
    demo = Demo(tmp_path / "state", seed=6, folder=mine, own=("--checkpoints", "ckpt", "--", "python", "train.py"))
    demos.append(demo)
    await demo.start()
    found = await demo.document()
    check(found)
    assert found["steps_lost_with_notice"] is found["repeated_steps_verified"] is None
    assert [fault["steps_lost"] for fault in found["faults"]] == [None] * 4
    assert sorted(path.name for path in (mine / "ckpt").iterdir()) == ["model_999999.pt"], "the folder is copied"
    assert demo.left() == []


async def test_a_demo_told_to_end_ends_all_that_it_started(tmp_path: Path, demos: list[Demo]) -> None:
    demo = Demo(tmp_path / "state", seed=1, folder=tmp_path)
    demos.append(demo)
    await demo.start()
    await demo.says("attempt 1 begins")
    await demo.end()
    assert demo.process.returncode == 130
    assert demo.left() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--checkpoints", "../ckpt", "--", "true"], "--checkpoints ../ckpt"),
        (["--checkpoints", "/ckpt", "--", "true"], "--checkpoints /ckpt"),
        (["--checkpoints", "ckpt"], "--checkpoints"),
        (["--resume-state"], "--state"),
        (["--", "true"], "--checkpoints"),
    ],
)
def test_what_a_person_got_wrong_is_said_in_a_paragraph(options: list[str], words: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vl_tui.cli", "demo", "--headless", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
