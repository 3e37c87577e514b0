"""Two ranks under torchrun, killed and resumed, end with exactly the numbers of those that were never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

SCRIPT = Path(__file__).with_name("ranks.py")


@dataclass(frozen=True)
class Done:
    """What became of one training, by rank."""

    statuses: list[int]
    weights: list[str]
    said: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def done(folder: Path) -> dict[str, Done]:
    """All trainings, by one torchrun: importing torch takes longer than they do."""
    control = folder / "control"
    control.mkdir()
    (control / "notice.json").write_text('{"why": "notice"}')
    trainings: dict[str, dict[str, Any]] = {}
    for kind in ("ddp", "fsdp2"):
        trainings |= {
            f"{kind} whole": {"kind": kind, "folder": f"{kind}-whole"},
            f"{kind} noticed": {"kind": kind, "folder": f"{kind}-cut", "control": str(control)},
            f"{kind} killed": {"kind": kind, "folder": f"{kind}-cut", "die_after": 27},
            f"{kind} resumed": {"kind": kind, "folder": f"{kind}-cut", "flip": kind == "ddp"},
        }
    trainings |= {
        "by one rank": {"kind": "fsdp2", "folder": "fsdp2-whole", "ranks": 1},
        "without ranks": {"kind": "alone", "folder": "ddp-whole", "ranks": 1},
        "alone": {"kind": "alone", "folder": "alone", "ranks": 1},
        "as ranks": {"kind": "fsdp2", "folder": "alone"},
    }
    words = json.dumps([{**options, "folder": str(folder / options["folder"])} for options in trainings.values()])
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    env = {**os.environ, "VL_CONTROL": ""}
    end = subprocess.run([*run, str(SCRIPT), words, str(folder)], env=env, capture_output=True, text=True, timeout=110)
    assert end.returncode == 0, end.stderr
    return {
        name: _done(folder, number, options.get("ranks", 2)) for number, (name, options) in enumerate(trainings.items())
    }


def _done(folder: Path, number: int, ranks: int) -> Done:
    def read(rank: int, kind: str) -> str:
        path = folder / f"{number}-{rank}.{kind}"
        return path.read_text() if path.exists() else ""

    said = "".join(read(rank, "err") for rank in range(ranks))
    return Done([int(read(r, "status")) for r in range(ranks)], [read(r, "json") for r in range(ranks)], said)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_killed_ranks_resume_bit_for_bit(done: dict[str, Done], kind: str) -> None:
    assert done[f"{kind} killed"].statuses == [-9, -9]
    assert done[f"{kind} resumed"].statuses == [0, 0], done[f"{kind} resumed"].said
    assert done[f"{kind} resumed"].weights == done[f"{kind} whole"].weights
    assert done[f"{kind} whole"].weights[0] == done[f"{kind} whole"].weights[1] != ""


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_notice_to_one_rank_stops_all_with_the_step_under_way_saved(done: dict[str, Done], kind: str) -> None:
    assert done[f"{kind} noticed"].statuses == [75, 75], done[f"{kind} noticed"].said
    assert "notice: saved step 1, stopping" in done[f"{kind} noticed"].said


def test_a_damaged_folder_is_passed_over(done: dict[str, Done]) -> None:
    assert "has not the CRC it was written with), the one before is used" in done["ddp resumed"].said


def test_another_number_of_ranks_has_the_same_state_and_is_told_what_differs(done: dict[str, Done]) -> None:
    assert done["by one rank"].weights[0] == done["fsdp2 whole"].weights[0]
    assert "saved by 2 ranks, 1 here" in done["by one rank"].said
    assert done["without ranks"].weights[0] == done["ddp whole"].weights[0]
    assert done["as ranks"].weights == [done["alone"].weights[0]] * 2
    assert "saved by 1 rank, 2 here" in done["as ranks"].said


def test_only_whole_folders_and_nothing_else_are_left(done: dict[str, Done], folder: Path) -> None:
    for kind in ("ddp", "fsdp2"):
        found = list((folder / f"{kind}-cut").iterdir())
        assert max(found).name == "step-000000040"
        for path in found:
            assert sorted(part.name for part in path.iterdir()) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
