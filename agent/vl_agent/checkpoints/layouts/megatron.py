"""Megatron-LM: ``iter_NNNNNNN``, then ``latest_checkpointed_iteration.txt`` in place, behind a barrier of all ranks.

torch_dist (the default) writes a distributed checkpoint with common.pt and metadata.json; the legacy format a folder
for each tensor and pipeline rank, whose number only the tracker's word vouches for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vl_agent.checkpoints.files import Stamp
from vl_agent.checkpoints.layouts import contents
from vl_agent.checkpoints.layouts.base import Found, Layout, Pointer, Tree, lacking, last

_NAME = re.compile(r"iter_(\d{7,12})")
_LEGACY = re.compile(r"mp_rank_(\d+)(?:_(\d+))?(?:_\d+)?/model_(optim_)?rng\.pt")
TRACKER = "latest_checkpointed_iteration.txt"


def _find(tree: Tree) -> list[Found]:
    found = []
    tracked = tree.text(TRACKER)
    for name in tree.folders:
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        step, below = int(match[1]), tree.below(name)
        if not (tracked or f"{name}/common.pt" in below or any("/mp_rank_" in path for path in below)):
            continue  # another framework's folder of that name
        lacks = _lacking(below, name)
        if not (tracked.isdecimal() and len(tracked) <= 12 and int(tracked) >= step):
            lacks = lacks or f"{TRACKER} does not say {step} yet"
        found.append(Found(name, last(below, ".metadata", "metadata.json"), step, "marks", lacks))
    return found


def _lacking(below: Mapping[str, Stamp], name: str) -> str:
    names = [path.removeprefix(f"{name}/") for path in below]
    ranks = {(int(match[1]), int(match[2] or 0)) for one in names if (match := _LEGACY.fullmatch(one))}
    if not ranks:
        return lacking(below, r"common\.pt", r"metadata\.json", r"\.metadata", prefix=f"{name}/")
    for tensor in range(max(rank for rank, _ in ranks) + 1):
        for pipeline in range(max(rank for _, rank in ranks) + 1):
            if (tensor, pipeline) not in ranks:
                return f"no rank {tensor}, {pipeline}"
    with_optimizer = {one.partition("/")[0] for one in names if one.endswith("/distrib_optim.pt")}
    folders = {one.partition("/")[0] for one in names if _LEGACY.fullmatch(one)}
    if with_optimizer and with_optimizer != folders:
        return f"no {min(folders - with_optimizer)}/distrib_optim.pt"
    return lacking(below, prefix=f"{name}/")


def _pointers(_paths: Sequence[str], step: int) -> tuple[Pointer, ...]:
    return (Pointer(TRACKER, text=str(step)),)


LAYOUT = Layout("Megatron", f"--load FOLDER, which reads {TRACKER}", _find, contents.inside, _pointers)
