"""A resumed training ends with exactly the numbers of the one that was never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

SCRIPT = Path(__file__).with_name("script.py")


def train(folder: Path, *options: str, control: Path | None = None, status: int = 0) -> str:
    env = {**os.environ, "VL_CONTROL": str(control) if control else ""}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--folder", str(folder), *options], env=env, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="no-workers"),
        pytest.param(("--augment",), id="augmentation-from-the-global-rng"),
        pytest.param(("--workers", "2"), id="two-workers"),
        pytest.param(("--workers", "2", "--persistent"), id="persistent-workers"),
    ],
)
def test_a_killed_training_resumes_bit_for_bit(tmp_path: Path, options: tuple[str, ...]) -> None:
    whole = train(tmp_path / "whole", *options)
    cut = tmp_path / "cut"
    for die_after in (9, 25, 48):  # in the first, a later and the last epoch; never right after a save
        train(cut, *options, "--die-after", str(die_after), status=-9)
    assert train(cut, *options) == whole


def test_a_save_at_the_very_end_of_an_epoch_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", "--every-steps", "12")  # 90 samples in batches of 8 are 12 batches
    train(tmp_path / "cut", "--every-steps", "12", "--die-after", "27", status=-9)
    assert train(tmp_path / "cut", "--every-steps", "12") == whole


@pytest.mark.parametrize("forgotten", ["optimizer", "scheduler", "ema"])
def test_state_that_is_left_out_does_make_a_difference(tmp_path: Path, forgotten: str) -> None:
    whole = train(tmp_path / "whole")
    train(tmp_path / "cut", "--forget", forgotten, "--die-after", "25", status=-9)
    assert train(tmp_path / "cut", "--forget", forgotten) != whole


def test_a_torn_newest_file_is_passed_over(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    cut = tmp_path / "cut"
    train(cut, "--die-after", "25", status=-9)
    newest = max(cut.glob("step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    assert train(cut) == whole


def test_a_notice_saves_the_step_under_way_and_stops(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    control = tmp_path / "control"
    control.mkdir()
    (control / "notice.json").write_text('{"why": "notice", "deadline": null}')
    train(tmp_path / "cut", "--every-steps", "1000", control=control, status=75)
    told = [json.loads(line) for line in (control / "progress.jsonl").read_text().splitlines()]
    assert [line["step"] for line in told if "loss" in line] == [1]
    assert told[-1] == {"stopped": 1, "why": "notice"}
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["step-000000001.pt"]
    assert train(tmp_path / "cut") == whole


def test_steps_are_told_with_their_exact_loss(tmp_path: Path) -> None:
    control = tmp_path / "control"
    control.mkdir()
    train(tmp_path / "ckpt", "--steps", "5", control=control)
    told = [json.loads(line) for line in (control / "progress.jsonl").read_text().splitlines()]
    steps = [line for line in told if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5]
    assert {line["total"] for line in steps} == {5}
    again = tmp_path / "again"
    again.mkdir()
    train(tmp_path / "other", "--steps", "5", control=again)
    losses = [json.loads(line).get("loss") for line in (again / "progress.jsonl").read_text().splitlines()]
    assert [loss for loss in losses if loss is not None] == [line["loss"] for line in steps]


def test_the_cadence_that_a_person_set_goes_first(tmp_path: Path) -> None:
    control = tmp_path / "control"
    control.mkdir()
    (control / "cadence.json").write_text('{"every_s": 3600}')
    train(tmp_path / "ckpt", control=control)
    assert [path.name for path in (tmp_path / "ckpt").iterdir()] == ["step-000000060.pt"]
