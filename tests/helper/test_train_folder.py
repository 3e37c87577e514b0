"""What a box puts on the training's path is all that the helper needs there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from vl_tui.ssh import bundle  # noqa: E402

SCRIPT = """
import sys
import torch
sys.path = [path for path in sys.path if not path.endswith("/agent")]
from vl_agent.torch import Checkpointer

model = torch.nn.Linear(2, 2)
ckpt = Checkpointer("ckpt", model=model)
print(ckpt.restore())
ckpt.save(5)
ckpt.close()
import vl_agent.torch.ranks
ours = [m for m in sys.modules.values() if m.__name__.partition(".")[0] in ("vl_agent", "vl_tui")]
assert all(m.__file__.startswith(sys.argv[1]) for m in ours), ours
"""


def test_the_helper_saves_and_restores_with_nothing_of_ours_but_the_train_folder(tmp_path: Path) -> None:
    train = tmp_path / "train"
    for name, body in bundle._own_files():
        if name.startswith("train/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(body)
    for step in ("0", "5"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(train)], cwd=tmp_path, capture_output=True, text=True, timeout=100,
            env={**os.environ, "PYTHONPATH": str(train), "VL_CONTROL": ""},
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, f"{step}\n"), done.stderr
        assert "stops the training" not in done.stderr, "its writer ran"
