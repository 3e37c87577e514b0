"""torchdata's StatefulDataLoader knows its own place; a resumed training goes on from it, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchdata")

RUNNER = Path(__file__).with_name("several.py")
AUGMENTED = ["--stateful", "--augment"]
KINDS = {
    "no workers": (AUGMENTED, ["9", "48"]),  # 48 ends an epoch
    "two workers": ([*AUGMENTED, "--workers", "2"], ["26"]),
    "persistent workers": ([*AUGMENTED, "--workers", "2", "--persistent"], ["26"]),
    "saved at an epoch's end": (["--stateful", "--every-steps", "12"], ["27"]),  # 90 samples are 12 batches of 8
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Of each kind: the training that was never stopped, those that were killed, and the one that came to its end."""
    folder = tmp_path_factory.mktemp("trainings")
    trainings: list[list[str]] = []
    for kind, (words, kills) in KINDS.items():
        cut = [*words, "--folder", str(folder / f"{kind} cut")]
        trainings += [[*words, "--folder", str(folder / kind)], *([*cut, "--die-after", step] for step in kills), cut]
    run = subprocess.run(
        [sys.executable, str(RUNNER), json.dumps(trainings)], capture_output=True, text=True, timeout=110
    )
    assert run.returncode == 0, run.stderr
    ends = iter(json.loads(run.stdout.splitlines()[-1]))
    return {kind: [next(ends) for _ in range(len(kills) + 2)] for kind, (_, kills) in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stateful_loader_resumes_bit_for_bit(done: dict[str, list[dict[str, Any]]], kind: str) -> None:
    whole, *killed, end = done[kind]
    assert [one["status"] for one in killed] == [-9] * len(killed), killed
    assert (end["status"], end["out"]) == (0, whole["out"]), end["err"]
    assert whole["out"]
