"""Upload against s5cmd, boto3 and the CRT, to the same S3 server: ``python -m bench.upload``.

``--memory GIB`` instead measures the peak memory of a real ``vl-agent run`` while it uploads one file of that size.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from bench import measure
from bench.measure import GIB, MIB, OURS, PEERS, Cost


async def compare(size: int, rounds: int, base: Path | None) -> None:
    costs: dict[str, list[Cost]] = {name: [] for name in (OURS, *PEERS)}
    with tempfile.TemporaryDirectory(prefix="vl-bench-", dir=measure.in_memory()) as folder:
        path = measure.random_file(Path(folder) / "file", size)
        for order in measure.interleaved((OURS, *PEERS), rounds):
            async with measure.server(base) as s3:
                for name in order:
                    costs[name].append(await measure.client_beside(name, "up", path, size, s3))
    measure.table("upload", size, costs)


TRAINING = "import os, sys; os.link(sys.argv[1], 'ckpt/step-1.bin')"


async def memory(size: int) -> None:
    """A command that saves one large file and ends: the agent brings it into the store. On disk, all of it."""
    with tempfile.TemporaryDirectory(prefix="vl-bench-") as folder:
        work = Path(folder) / "work"
        (work / "ckpt").mkdir(parents=True)
        path = measure.random_file(Path(folder) / "file", size)
        async with measure.server(Path(folder)) as s3:
            env = {**measure.environment(s3), "VL_HOME": f"{folder}/vl"}
            words = [
                sys.executable, "-m", "vl_agent", "run", "--store", f"s3://{s3.bucket}/memory",
                "--endpoint", s3.endpoint, "--run", "memory", "--checkpoints", "ckpt", "--",
                sys.executable, "-c", TRAINING, str(path),
            ]  # fmt: skip
            cost = await asyncio.to_thread(measure.run, words, env, work)
    print(
        f"vl-agent run, one file of {size / GIB:g} GiB made durable: peak {cost.peak_bytes / MIB:.0f} MiB resident"
        f" (its children counted), {cost.cpu_s * GIB / size:.2f} CPU-s/GiB with all that it does,"
        f" {size / MIB / cost.seconds:.0f} MiB/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.upload", description=__doc__)
    parser.add_argument("--size-mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--store-folder", type=Path, help="where the server keeps its data (default: in memory)")
    parser.add_argument("--memory", type=float, metavar="GIB")
    args = parser.parse_args()
    if args.memory:
        asyncio.run(memory(int(args.memory * GIB)))
    else:
        asyncio.run(compare(args.size_mib * MIB, args.rounds, args.store_folder))


if __name__ == "__main__":
    main()
