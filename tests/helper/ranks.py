"""Trainings of several ranks, one after the other; run by torchrun. Each is a child of its rank, so that it can be
killed and torch need not be imported again. A rank prints the weights that it ends with, and what it has to say."""

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import vl_agent.torch.ranks  # noqa: F401 - once, not in every child
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from vl_agent import writer
from vl_agent.torch import Checkpointer

STEPS, EVERY = 40, 6


def train(options, rank, ranks, rendezvous):
    torch.set_num_threads(1)
    torch.manual_seed(1)
    if options["kind"] == "alone":
        del os.environ["WORLD_SIZE"]
    else:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)
    x = torch.randn(90, 8, generator=torch.Generator().manual_seed(3))
    data = TensorDataset(x, x.sum(1))
    loader = DataLoader(data, batch_size=4, sampler=DistributedSampler(data, ranks, rank), drop_last=True)
    net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Dropout(0.2), nn.Linear(32, 1))
    model = {"alone": lambda found: found, "ddp": DistributedDataParallel, "fsdp2": fully_shard}[options["kind"]](net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    torch.manual_seed(100 + rank)  # ranks draw differently
    random.seed(100 + rank)
    ckpt = Checkpointer(
        options["folder"], model=model, optimizer=optimizer, scheduler=scheduler, loader=loader, total_steps=STEPS,
        every_steps=EVERY,
    )  # fmt: skip
    for step, (x, y) in ckpt.batches():
        loss = (model(x).squeeze(1) - random.random() * y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        ckpt.step(step, loss)
        if step == options.get("die_after"):
            os.kill(os.getpid(), signal.SIGKILL)
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in net.parameters()]
    return torch.cat([p.detach().flatten() for p in whole]).double().tolist()


def is_still(folder):
    with writer.writing(folder, alone=True) as lock:
        return lock is not None


def flip_a_bit(folder):
    """In the newest save's second rank's file, in some tensor, once the killed ranks' writers are done."""
    while not is_still(folder):
        time.sleep(0.01)
    path = max(folder.glob("step-*")) / "__1_0.distcp"
    whole = bytearray(path.read_bytes())
    at = whole.index(b"archive/data/0") + 200
    whole[at] ^= 1
    path.write_bytes(whole)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("trainings", help="JSON: a list of {kind, folder, die_after, ranks}")
    parser.add_argument("results", type=Path, help="folder")
    args = parser.parse_args()
    rank = int(os.environ["RANK"])
    for number, options in enumerate(json.loads(args.trainings)):
        ranks = options.get("ranks", 2)
        if rank >= ranks:
            continue
        child = os.fork()
        if child == 0:
            if rank == 0 and options.get("flip"):
                flip_a_bit(Path(options["folder"]))
            if rank == 1 and "control" in options:  # the other rank is not told
                os.environ["VL_CONTROL"] = options["control"]
            sys.stderr = (args.results / f"{number}-{rank}.err").open("w")
            try:
                weights = train(options, rank, ranks, args.results / f"{number}.rendezvous")
            except SystemExit as stopped:
                sys.stderr.flush()
                os._exit(stopped.code)
            (args.results / f"{number}-{rank}.json").write_text(json.dumps(weights))
            sys.stderr.flush()
            if dist.is_initialized():
                dist.destroy_process_group()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        (args.results / f"{number}-{rank}.status").write_text(str(os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    main()
