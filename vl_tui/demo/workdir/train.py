"""A small character transformer, trained for real: what the demo's run does. Three lines make it survive."""

import argparse
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from vl_agent.torch import Checkpointer

CONTEXT, WIDTH, HEADS, LAYERS, BATCH = 96, 96, 4, 3, 24


class Text(Dataset):
    """Every window of the text, as characters and as the characters after them."""

    def __init__(self, text):
        self.letters = sorted(set(text))
        number = {letter: index for index, letter in enumerate(self.letters)}
        self.data = torch.tensor([number[letter] for letter in text])

    def __len__(self):
        return len(self.data) - CONTEXT - 1

    def __getitem__(self, at):
        return self.data[at : at + CONTEXT], self.data[at + 1 : at + CONTEXT + 1]


class Model(nn.Module):
    def __init__(self, letters):
        super().__init__()
        self.letter = nn.Embedding(letters, WIDTH)
        self.place = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, letters)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        h = self.letter(x) + self.place.weight[: x.shape[1]]
        return self.out(self.layers(h, mask=mask, is_causal=True))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=450)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--threads", type=int, default=1)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)

    data = Text(Path(__file__).with_name("text.txt").read_text())
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)
    model = Model(len(data.letters))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)

    ckpt = Checkpointer(
        "ckpt", model=model, optimizer=optimizer, scheduler=scheduler, loader=loader, total_steps=args.steps
    )
    began = time.monotonic()
    for step, (x, y) in ckpt.batches():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % 10 == 0:
            speed = 10 * BATCH * CONTEXT / (time.monotonic() - began)
            began = time.monotonic()
            rate = scheduler.get_last_lr()[0]
            print(f"step {step} loss {loss.item():.4f} lr {rate:.2e} tok/s {speed:,.0f}", flush=True)
        ckpt.step(step, loss)


if __name__ == "__main__":
    main()
