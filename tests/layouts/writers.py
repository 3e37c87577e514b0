"""Checkpoints of every layout as their own code lays them out, small: with torch where it is torch's own, by hand
elsewhere."""

from __future__ import annotations

import functools
import io
import json
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp


def saved(content: Any) -> bytes:
    """What torch.save makes of it."""
    whole = io.BytesIO()
    torch.save(content, whole)
    return whole.getvalue()


def tensor(step: int) -> torch.Tensor:
    return torch.arange(40, dtype=torch.float32) + step


def safetensors(step: int, size: int = 160) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([step % 251 + 1]) * size


@functools.cache
def distributed(step: int) -> Mapping[str, bytes]:
    """What dcp.save writes, one rank: its shard, then .metadata."""
    with tempfile.TemporaryDirectory() as folder:
        state = {"w": tensor(step), "optim": {"step": step, "m": tensor(step + 1)}}
        dcp.save(state, checkpoint_id=folder, no_dist=True)
        found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return {"__0_0.distcp": found["__0_0.distcp"], ".metadata": found[".metadata"]}


Files = Mapping[str, bytes]


def below(name: str, files: Files) -> Files:
    return {f"{name}/{path}": data for path, data in files.items()}


def state_json(step: int) -> bytes:
    return json.dumps({"global_step": step, "log_history": [{"loss": 1.5, "step": step}]}, indent=2).encode()


def hf(step: int, ranks: int = 1) -> Files:
    rng = {"rng_state.pth": saved({"cpu": tensor(step)})}
    if ranks > 1:
        rng = {f"rng_state_{rank}.pth": saved({"cpu": tensor(step + rank)}) for rank in range(ranks)}
    return below(
        f"checkpoint-{step}",
        {
            "config.json": b'{"model_type": "gpt2"}',
            "model.safetensors": safetensors(step),
            "training_args.bin": saved({"lr": 0.1}),
            "optimizer.pt": saved({"state": tensor(step)}),
            "scheduler.pt": saved({"last_epoch": step}),
            **rng,
            "trainer_state.json": state_json(step),
        },
    )


def hf_sharded(step: int) -> Files:
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"metadata": {"total_size": 320}, "weight_map": {"a": shards[0], "b": shards[1]}}
    name = f"checkpoint-{step}"
    files = {path: data for path, data in hf(step).items() if not path.endswith("model.safetensors")}
    last = files.pop(f"{name}/trainer_state.json")
    sharded = {shards[0]: safetensors(step), shards[1]: safetensors(step + 1)}
    files.update(below(name, {**sharded, "model.safetensors.index.json": json.dumps(index).encode()}))
    return {**files, f"{name}/trainer_state.json": last}


def accelerate(step: int) -> Files:
    return below(
        f"checkpoint_{step}",
        {
            "model.safetensors": safetensors(step),
            "optimizer.bin": saved({"state": tensor(step)}),
            "scheduler.bin": saved({"last_epoch": step}),
            "sampler.bin": saved({"seed": 1}),
            "random_states_0.pkl": saved({"step": 0, "torch_manual_seed": tensor(step)}),
            "random_states_1.pkl": saved({"step": 0, "torch_manual_seed": tensor(step + 1)}),
            "custom_checkpoint_0.pkl": saved({"best": 1.0}),
        },
    )


def lightning(step: int) -> Files:
    content = {"epoch": 1, "global_step": step, "pytorch-lightning_version": "2.6.6", "state_dict": {"w": tensor(step)}}
    return {f"epoch=1-step={step}.ckpt": saved(content)}


def deepspeed(step: int, ranks: int = 2, stage: int = 1) -> Files:
    state = {
        "module": {"w": tensor(step)}, "optimizer": None, "param_shapes": [{"w": [40]}], "global_steps": step,
        "dp_world_size": ranks, "mp_world_size": 1, "ds_version": "0.19.8",
    }  # fmt: skip
    if stage == 3:
        models = {f"zero_pp_rank_{r}_mp_rank_00_model_states.pt": saved(state) for r in range(ranks)}
    else:
        models = {"mp_rank_00_model_states.pt": saved(state)}
    optimizers = {
        f"bf16_zero_pp_rank_{r}_mp_rank_00_optim_states.pt": saved({"optimizer_state_dict": tensor(step + r)})
        for r in range(ranks)
    }
    return below(f"global_step{step}", {**models, **optimizers})


def torch_distributed(step: int) -> Files:
    return below(f"step-{step}", distributed(step))


def per_rank(step: int) -> Files:
    """As with use_collectives=False."""
    files = distributed(step)
    return below(f"step-{step}", {"__0_0.distcp": files["__0_0.distcp"], "__0.metadata": files[".metadata"]})


def torch_dist(step: int) -> Files:
    common = {"common.pt": saved({"iteration": step}), "__0_0.distcp": distributed(step)["__0_0.distcp"]}
    last = {".metadata": distributed(step)[".metadata"], "metadata.json": b'{"sharded_backend": "torch_dist"}'}
    return {**common, **last}


def megatron(step: int) -> Files:
    return below(f"iter_{step:07d}", torch_dist(step))


def megatron_legacy(step: int) -> Files:
    ranks = [f"mp_rank_0{t}_00{p}" for t in range(2) for p in range(2)]
    both = {f"{rank}/{name}": saved({"iteration": step, "w": tensor(step)}) for rank in ranks
            for name in ("model_optim_rng.pt", "distrib_optim.pt")}  # fmt: skip
    return below(f"iter_{step:07d}", both)


def nemo(step: int) -> Files:
    context = {"context/model.yaml": b"a: 1\n", "context/io.json": b'{"a": 1}'}
    return below(f"model--epoch=0-step={step}", {**context, **below("weights", torch_dist(step))})


def composer(step: int) -> Files:
    return {f"ep0-ba{step}-rank{rank}.pt": saved({"state": tensor(step + rank)}) for rank in range(2)}


def orbax(step: int) -> Files:
    item = {"_METADATA": b'{"tree_metadata": {}}', "manifest.ocdbt": b"\x0c\xdb\x3a\x2a", "d/0a1b": bytes([step]) * 50}
    return below(
        str(step),
        {
            "_CHECKPOINT_METADATA": b'{"commit_timestamp_nsecs": 1}', **below("default", item),
            "default/commit_success.txt": b"ok", "commit_success.txt": b"ok",
        },
    )  # fmt: skip


def one_file(step: int) -> Files:
    return {f"step-{step}.pt": saved({"w": tensor(step)})}


def several_files(step: int) -> Files:
    """As guided-diffusion does."""
    names = (f"ema_0.9999_{step:06d}.pt", f"model{step:06d}.pt", f"opt{step:06d}.pt")
    return {name: saved({"w": tensor(step + n)}) for n, name in enumerate(names)}


def one_safetensors(step: int) -> Files:
    return {f"model-step{step}.safetensors": safetensors(step)}


def shards(step: int) -> Files:
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"metadata": {}, "weight_map": {"a": names[0], "b": names[1]}}
    return {
        names[0]: safetensors(step), names[1]: safetensors(step + 1), "config.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
    }  # fmt: skip


def folder(step: int) -> Files:
    return below(f"epoch_{step}", {"model.pt": saved({"w": tensor(step)}), "meta.json": b'{"a": 1}',
                                   "optim.pt": saved({"m": tensor(step)})})  # fmt: skip


def bare(step: int) -> Files:
    return {f"weights_{step}.bin": b"\x80" + bytes([step % 250]) * 500}


@dataclass(frozen=True)
class Kind:
    """One way in which checkpoints come."""

    id: str
    layout: str
    write: Callable[[int], Files]
    step: bool = True
    """The step that is written is the step that is read."""
    pointer: Callable[[int], Mapping[str, str]] = lambda _: {}
    """What a framework writes last of all, beside it: text, or ``-> target`` for a link."""
    unproven: tuple[str, ...] = ()
    """Ends of names of files that nothing in them or beside them proves whole: the layout's order of writing does."""
    quiet: bool = False
    """The first one counts after a quiet time only."""


KINDS = (
    Kind("hf", "Hugging Face Trainer", hf),
    Kind("hf-ddp", "Hugging Face Trainer", functools.partial(hf, ranks=2), quiet=True),
    Kind("hf-sharded", "Hugging Face Trainer", hf_sharded),
    Kind("accelerate", "accelerate", accelerate, quiet=True),
    Kind("lightning", "Lightning", lightning, pointer=lambda step: {"last.ckpt": f"-> epoch=1-step={step}.ckpt"}),
    Kind("deepspeed-1", "DeepSpeed", deepspeed, pointer=lambda step: {"latest": f"global_step{step}"}),
    Kind("deepspeed-3", "DeepSpeed", functools.partial(deepspeed, stage=3),
         pointer=lambda step: {"latest": f"global_step{step}"}),
    Kind("dcp", "torch distributed checkpoint", torch_distributed),
    Kind("dcp-per-rank", "torch distributed checkpoint", per_rank, quiet=True),
    Kind("megatron", "Megatron", megatron, pointer=lambda step: {"latest_checkpointed_iteration.txt": str(step)}),
    Kind("megatron-legacy", "Megatron", megatron_legacy,
         pointer=lambda step: {"latest_checkpointed_iteration.txt": str(step)}),
    Kind("nemo", "NeMo", nemo, unproven=("context/model.yaml",)),
    Kind("composer", "Composer", composer,
         pointer=lambda step: {f"latest-rank{r}.pt": f"-> ep0-ba{step}-rank{r}.pt" for r in range(2)}),
    Kind("orbax", "Orbax", orbax, unproven=("manifest.ocdbt", "d/0a1b", "commit_success.txt")),
    Kind("torch.save", "torch.save", one_file),
    Kind("torch.save-several", "torch.save", several_files),
    Kind("safetensors", "safetensors", one_safetensors),
    Kind("safetensors-sharded", "safetensors", shards, step=False),
    Kind("folder", "folders", folder, quiet=True),
    Kind("file", "files", bare, unproven=(".bin",), quiet=True),
)  # fmt: skip


def lay(root: Path, files: Files, pointers: Mapping[str, str] | None = None) -> None:
    """Write files in their order, then what points at them."""
    for path, data in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    for path, content in (pointers or {}).items():
        target = root / path
        target.unlink(missing_ok=True)
        if content.startswith("-> "):
            target.symlink_to(content[3:])
        else:
            target.write_text(content)
