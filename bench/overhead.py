"""What the agent costs a training: the same script alone and under ``vl-agent run``: ``python -m bench.overhead``.

The script trains a small network on all cores and saves it every so many steps, by ``torch.save`` and rename, in both
cases; the agent brings each save into an S3 server. A step's time is the step's alone, a save's the save's alone. The
server stands on the same machine, so its work counts against us too, unless the store is a folder (``--folder``).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import measure

SCRIPT = """
import json, os, sys, time
import torch

steps, every, width, out = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.manual_seed(0)
net = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU()) for _ in range(4)))
optimizer = torch.optim.AdamW(net.parameters())
batch = torch.randn(256, width)
took, saves = [], []
for step in range(1, steps + 1):
    began = time.perf_counter()
    optimizer.zero_grad()
    loss = (net(batch) - batch).square().mean()
    loss.backward()
    optimizer.step()
    took.append(time.perf_counter() - began)
    if step % every == 0:
        began = time.perf_counter()
        torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, "new.pt")
        os.rename("new.pt", f"ckpt/step-{step}.pt")
        saves.append(time.perf_counter() - began)
        if step > 2 * every:
            os.unlink(f"ckpt/step-{step - 2 * every}.pt")
with open(out, "w") as file:
    json.dump({"steps": took, "saves": saves, "bytes": os.stat(f"ckpt/step-{step // every * every}.pt").st_size}, file)
"""


@dataclass(frozen=True)
class Training:
    """Seconds of each step and of each save."""

    steps: list[float]
    saves: list[float]
    bytes: int


def train(words: list[str], env: Mapping[str, str], script: list[str]) -> Training:
    with tempfile.TemporaryDirectory(prefix="vl-bench-") as folder:
        (work := Path(folder) / "work" / "ckpt").mkdir(parents=True)
        out = Path(folder) / "out.json"
        words = [*words, sys.executable, "-c", SCRIPT, *script, str(out)]
        subprocess.run(
            words, env={**env, "VL_HOME": f"{folder}/vl"}, cwd=work.parent, check=True, stdout=subprocess.DEVNULL
        )
        return Training(**json.loads(out.read_text()))


def told(alone: list[Training], under: list[Training]) -> None:
    """Ratios of all steps of a round; the spread of the script alone says how much of it is this machine's noise."""
    ratios = [sum(ours.steps) / sum(theirs.steps) for ours, theirs in zip(under, alone, strict=True)]
    print(
        f"\noverhead: {len(alone)} rounds, interleaved, {len(alone[0].steps)} steps each, {len(alone[0].saves)} saves"
        f" of {alone[0].bytes // measure.MIB} MiB; load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':10} {'step median':>12} {'99th':>9} {'worst':>9} {'save median':>12}   (ms)")
    for name, those in (("alone", alone), ("vl-agent", under)):
        steps = sorted(step for one in those for step in one.steps)
        saves = [save for one in those for save in one.saves]
        shown = statistics.median(steps), steps[int(0.99 * len(steps))], steps[-1], statistics.median(saves)
        print(f"{name:10} {1e3 * shown[0]:12.1f} {1e3 * shown[1]:9.1f} {1e3 * shown[2]:9.1f} {1e3 * shown[3]:12.1f}")
    spread = [max(sum(a.steps) / sum(b.steps) for b in alone) for a in alone]
    print(
        f"all steps against alone: {statistics.median(ratios):.3f} x (rounds {min(ratios):.3f} to {max(ratios):.3f};"
        f" alone against alone up to {max(spread):.3f})"
    )


async def compare(rounds: int, script: list[str], folder: bool) -> None:
    alone: list[Training] = []
    under: list[Training] = []
    async with contextlib.AsyncExitStack() as stack:
        if folder:
            base = stack.enter_context(tempfile.TemporaryDirectory(prefix="vl-bench-", dir=measure.in_memory()))
            env, where = dict(os.environ), [f"file://{base}/store"]
            env["PYTHONPATH"] = os.pathsep.join([str(measure.ROOT), str(measure.ROOT / "agent")])
        else:
            s3 = await stack.enter_async_context(measure.server(None))
            env, where = measure.environment(s3), [f"s3://{s3.bucket}/overhead", "--endpoint", s3.endpoint]
        for number in range(rounds):
            agent = [
                sys.executable, "-m", "vl_agent", "run", "--store", *where, "--run", f"round-{number}",
                "--checkpoints", "ckpt", "--",
            ]  # fmt: skip
            for words, those in (([], alone), (agent, under))[:: 1 if number % 2 else -1]:
                those.append(await asyncio.to_thread(train, words, env, script))
    told(alone, under)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=100, help="steps from save to save")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--folder", action="store_true", help="a folder in memory as the store, no S3 server")
    args = parser.parse_args()
    asyncio.run(compare(args.rounds, [str(args.steps), str(args.every), str(args.width)], args.folder))


if __name__ == "__main__":
    main()
