"""Download against s5cmd, boto3 and the CRT, from the same S3 server: ``python -m bench.restore``.

Ours hashes every byte that arrives and syncs the file; the peers do neither.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from vl_agent.checkpoints.files import digest

from bench import measure
from bench.measure import MIB, OURS, PEERS, Cost


async def compare(size: int, rounds: int, base: Path | None, disk: Path | None) -> None:
    costs: dict[str, list[Cost]] = {name: [] for name in (OURS, *PEERS)}
    with tempfile.TemporaryDirectory(prefix="vl-bench-", dir=disk or measure.in_memory()) as folder:
        path, back = measure.random_file(Path(folder) / "file", size), Path(folder) / "back"
        whole = digest(path)
        async with measure.server(base) as s3:
            for name in (OURS, "boto3"):
                await measure.client_beside(name, "up", path, size, s3)
            for order in measure.interleaved((OURS, *PEERS), rounds):
                for name in order:
                    back.unlink(missing_ok=True)
                    costs[name].append(await measure.client_beside(name, "down", back, size, s3))
                    assert digest(back) == whole, f"{name} brought something else"
    measure.table("restore", size, costs)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.restore", description=__doc__)
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--store-folder", type=Path, help="where the server keeps its data (default: in memory)")
    parser.add_argument("--disk", type=Path, help="where files are written (default: in memory)")
    args = parser.parse_args()
    asyncio.run(compare(args.size_mib * MIB, args.rounds, args.store_folder, args.disk))


if __name__ == "__main__":
    main()
