"""A training script that knows nothing of vl-tui: saves by rename, deletes older files, resumes from the newest."""

import re
import time
from pathlib import Path

import torch
from torch import nn

STEPS, EVERY, FOLDER = 480, 40, Path("ckpt")

torch.set_num_threads(1)
torch.manual_seed(7)
FOLDER.mkdir(exist_ok=True)
model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def saved():
    return sorted(FOLDER.glob("model_*.pt"), key=lambda path: int(re.findall(r"\d+", path.name)[-1]))


step = 0
if saved():
    state = torch.load(saved()[-1], weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    step = state["step"]
    print("resumed at", step, flush=True)

while step < STEPS:
    step += 1
    x = torch.randn(256, 32)
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    time.sleep(0.045)
    if step % EVERY == 0:
        path = FOLDER / f"model_{step:06d}.pt"
        part = FOLDER / f".model_{step:06d}.part"
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**state, "rng": torch.get_rng_state(), "step": step}, part)
        part.rename(path)
        for old in saved()[:-2]:
            old.unlink()
        print(f"iteration {step}: {loss.item():.4f}", flush=True)
