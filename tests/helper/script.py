"""A training with every kind of state that a resume can get wrong; run by the tests as a process of its own."""

import argparse
import os
import random
import signal
import sys

import numpy
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from vl_agent.torch import Checkpointer


class Numbers(Dataset):
    """Draws from the global RNGs; as a stateful one it carries them, so that a worker's streams go on."""

    def __init__(self, augment, stateful):
        self.x = torch.randn(90, 8, generator=torch.Generator().manual_seed(3))
        self.augment = augment
        if stateful:
            self.state_dict, self.load_state_dict = carried, carry_on

    def __len__(self):
        return len(self.x)

    def __getitem__(self, at):
        noise = torch.randn(8) * 0.1 + numpy.random.rand() + random.random() if self.augment else 0.0
        return self.x[at] + noise, self.x[at].sum()


def carried():
    return {"torch": torch.get_rng_state(), "numpy": numpy.random.get_state(legacy=False), "python": random.getstate()}


def carry_on(state):
    torch.set_rng_state(state["torch"])
    numpy.random.set_state(state["numpy"])
    random.setstate(state["python"])


def main(words=None):
    options = argparse.ArgumentParser()
    options.add_argument("--folder", required=True)
    options.add_argument("--workers", type=int, default=0)
    options.add_argument("--persistent", action="store_true")
    options.add_argument("--augment", action="store_true")
    options.add_argument("--stateful", action="store_true", help="torchdata's loader")
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--every-steps", type=int, default=7)
    options.add_argument("--die-after", type=int, default=0)
    options.add_argument("--forget", default="")
    args = options.parse_args(words)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    random.seed(2)
    numpy.random.seed(3)
    kind = DataLoader
    if args.stateful:
        from torchdata.stateful_dataloader import StatefulDataLoader as kind
    loader = kind(
        Numbers(args.augment, args.stateful and args.workers),
        batch_size=8,
        shuffle=True,
        num_workers=args.workers,
        persistent_workers=args.persistent,
    )
    model = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.2), nn.Linear(32, 1))
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "ema": average}
    state.pop(args.forget, None)
    ckpt = Checkpointer(args.folder, loader=loader, total_steps=args.steps, every_steps=args.every_steps, **state)
    for step, (x, y) in ckpt.batches():
        scale = random.random() + numpy.random.rand()
        loss = (model(x).squeeze(1) - scale * y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        average.update_parameters(model)
        ckpt.step(step, loss)
        if step == args.die_after:
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    print(torch.cat([p.detach().flatten() for p in [*model.parameters(), *average.parameters()]]).double().tolist())


if __name__ == "__main__":
    main()
