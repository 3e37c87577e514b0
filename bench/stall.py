"""How long a save stops the training, against a copy of its state into warm memory: ``python -m bench.stall``.

All in one process, on the same state, interleaved. After each save it is waited until that is written, which is not
counted.
``--folder``: where saves go (default: in memory, which suits those that write before they return).
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from vl_agent.torch import Checkpointer

from bench import measure
from bench.measure import MIB

OURS, COPY = "Checkpointer", "memcpy, warm"
LAYERS = 16
AIM = 1.2

Save = Callable[[int], float]
"""Save as this step; return the seconds for which the caller stood still. Everything is written when it returns."""


class Training:
    """A model and AdamW after their first step: 48 large tensors and as many small ones."""

    def __init__(self, size: int) -> None:
        width = math.isqrt(size // (3 * 4 * LAYERS))
        self.model = nn.Sequential(*(nn.Linear(width, width) for _ in range(LAYERS)))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def tensors(self) -> list[torch.Tensor]:
        slots = [one for state in self.optimizer.state.values() for one in state.values()]
        return [*self.model.state_dict().values(), *slots]


def copying(training: Training) -> Save:
    """What no capture can do without, by one thread."""
    warm = torch.zeros(sum(one.nbytes for one in training.tensors()), dtype=torch.uint8)

    def save(step: int) -> float:
        began, at = time.perf_counter(), warm.data_ptr()
        for one in training.tensors():
            ctypes.memmove(at, one.data_ptr(), one.nbytes)
            at += one.nbytes
        return time.perf_counter() - began

    return save


def ours(training: Training, folder: Path) -> Save:
    ckpt = Checkpointer(folder, model=training.model, optimizer=training.optimizer, every_steps=sys.maxsize)
    ckpt.step(0)  # as a training's first step: the memory is made and touched now
    ckpt.save(0)
    ckpt.wait()

    def save(step: int) -> float:
        began = time.perf_counter()
        ckpt.save(step)
        took = time.perf_counter() - began
        ckpt.wait()
        return took

    return save


def torch_save(training: Training, folder: Path) -> Save:
    def save(step: int) -> float:
        began = time.perf_counter()
        torch.save(training.state(), folder / "save.pt")
        return time.perf_counter() - began

    return save


def dcp_async(training: Training, folder: Path, *, reused: bool) -> Save:
    """``reused``: one stager with shared memory for all saves, which is safe only as each is waited for here."""
    stager = DefaultStager(StagingOptions(False, True, False, False)) if reused else None

    def save(step: int) -> float:
        began = time.perf_counter()
        written: Any = dcp.async_save(
            training.state(), checkpoint_id=folder / "save", async_stager=stager, no_dist=True
        )  # fmt: skip
        took = time.perf_counter() - began
        written.result()
        return took

    return save


def compare(size: int, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Seconds by name. One round before the first is not counted: everybody's memory is as warm as it gets."""
    training = Training(size)
    for name in ("ours", "torch", "dcp", "reused"):
        (folder / name).mkdir()
    saves: dict[str, Save] = {
        COPY: copying(training),
        OURS: ours(training, folder / "ours"),
        "torch.save": torch_save(training, folder / "torch"),
        "DCP async_save": dcp_async(training, folder / "dcp", reused=False),
        "same, one stager": dcp_async(training, folder / "reused", reused=True),
    }
    took: dict[str, list[float]] = {name: [] for name in saves}
    for number, order in enumerate(measure.interleaved(list(saves), rounds + 1)):
        for name in order:
            seconds = saves[name](number + 1)
            if number:
                took[name].append(seconds)
    return took


def table(size: int, took: Mapping[str, Sequence[float]]) -> None:
    rounds = len(took[OURS])
    print(
        f"\nstall of a save: {size // MIB} MiB, {rounds} rounds, interleaved, medians; {os.cpu_count()} cores,"
        f" load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'by':18} {'ms':>8} {'worst ms':>9} {'x memcpy':>9}")
    ratios = {
        name: statistics.median(one / copy for one, copy in zip(those, took[COPY], strict=True))
        for name, those in took.items()
    }
    for name, those in took.items():
        print(f"{name:18} {statistics.median(those) * 1e3:8.1f} {max(those) * 1e3:9.1f} {ratios[name]:9.2f}")
    verdict = "met" if ratios[OURS] <= AIM else "missed"
    print(f"the aim, {AIM} x a copy into warm memory, is {verdict}: {ratios[OURS]:.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.stall", description=__doc__)
    parser.add_argument("--size-mib", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torch.distributed")
    os.environ.pop("VL_CONTROL", None)
    for size in args.size_mib:
        with tempfile.TemporaryDirectory(prefix="vl-bench-", dir=args.folder or measure.in_memory()) as folder:
            table(size * MIB, compare(size * MIB, args.rounds, Path(folder)))


if __name__ == "__main__":
    main()
