"""Transformers' Trainer: ``checkpoint-N``, weights by rename, the rest in place, ``trainer_state.json`` last.

Trainer resumes from a folder without optimizer.pt, scheduler.pt or rng_state.pth too, silently and with other weights
in the end: all of them are demanded. Of several ranks each writes its own rng_state_R.pth at any time, also after rank
0's trainer_state.json; how many there must be says the folder before, and without one only quiet.
"""

from __future__ import annotations

import re
from dataclasses import replace

from vl_agent.checkpoints.layouts import contents
from vl_agent.checkpoints.layouts.base import Found, Held, Inside, Layout, Tree, Trust, lacking, last
from vl_agent.checkpoints.unpickle import number

_NAME = re.compile(r"checkpoint-(\d{1,12})")
_OWN = re.compile(
    r"trainer_state\.json|training_args\.bin|optimizer\.pt|rng_state(_\d+)?\.pth|checkpoint-is-incomplete\.txt"
)
_WEIGHTS = (
    r"model.safetensors|(adapter_)?model.*\.(safetensors|bin)|pytorch_model.*\.(safetensors|bin)"
    r"|pytorch_model_fsdp_\d+/.*|global_step\d+/.*"
)
_OPTIMIZER = r"optimizer.pt|optimizer\.bin|optimizer(_\d+)?/.*|global_step\d+/.*"
_RNG = re.compile(r"rng_state(?:_(\d+))?\.pth")


def _find(tree: Tree) -> list[Found]:
    found = []
    for name in tree.folders:
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        below = tree.below(name)
        names = {path.removeprefix(f"{name}/") for path in below}
        if any(_OWN.fullmatch(one) for one in names) and not any(one.startswith("random_states_") for one in names):
            lacks, trust = _judge(names, lacking(below, r"trainer_state\.json", _WEIGHTS, prefix=f"{name}/"))
            found.append(Found(name, last(below, "trainer_state.json"), int(match[1]), trust, lacks))
    return found


def _judge(names: set[str], lacks: str) -> tuple[str, Trust]:
    if "checkpoint-is-incomplete.txt" in names:
        return "checkpoint-is-incomplete.txt says so", "marks"
    ranks = {match[1] for one in names if (match := _RNG.fullmatch(one))}
    optimizer = any(re.fullmatch(_OPTIMIZER, one) for one in names)
    own_scheduler = any(one.startswith("global_step") for one in names)  # DeepSpeed may keep it inside
    if not (ranks or optimizer or "scheduler.pt" in names):
        return lacks, "quiet"  # save_only_model: a person wants it so
    if not optimizer:
        lacks = lacks or "no optimizer.pt"
    if "scheduler.pt" not in names and not own_scheduler:
        lacks = lacks or "no scheduler.pt"
    if None in ranks:
        return lacks, "marks"
    missing = [rank for rank in range(len(ranks)) if str(rank) not in ranks]
    if missing or not ranks:
        lacks = lacks or ("no rng_state.pth" if not ranks else f"no rng_state_{missing[0]}.pth")
    return lacks, "quiet"


def _inside(found: Found, held: Held) -> Inside:
    inside = contents.inside(found, held)
    state = contents.json_object(held, f"{found.name}/trainer_state.json")
    step = number(state.get("global_step")) if state is not None else None
    if step != found.step:
        return Inside(inside.lacks or f"trainer_state.json says step {step}")
    return replace(inside, step=step)


LAYOUT = Layout(
    "Hugging Face Trainer",
    "the script calls trainer.train(resume_from_checkpoint=True)",
    _find,
    _inside,
)
