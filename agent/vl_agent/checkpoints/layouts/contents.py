"""What any checkpoint folder may hold, whoever wrote it: sharded weights with an index, a distributed checkpoint of
torch, the ranks of DeepSpeed. Each has a file that says which others there must be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from vl_agent.checkpoints import unpickle
from vl_agent.checkpoints.files import Span, zip_spans
from vl_agent.checkpoints.layouts.base import Found, Held, Inside
from vl_agent.checkpoints.unpickle import Stub, Unreadable

_SHARD = re.compile(r"__(\d+)_\d+\.distcp")
_RANKS_OWN = re.compile(r"__(\d+)\.metadata")
_MODEL = re.compile(r"(zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt")
_OPTIMIZER = re.compile(r"(bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
_MOST_INDEX = 64 << 20


def inside(found: Found, held: Held) -> Inside:
    """Everything below that applies to the files found."""
    spans: dict[str, list[Span]] = {}
    step: int | None = None
    for folder, names in _by_folder(found):
        here = {name: f"{folder}{name}" for name in names}
        for name in names:
            if name.endswith(".index.json") and (lacks := _index(held, here, name)):
                return Inside(lacks)
        if any(name.endswith((".distcp", ".metadata")) for name in names):
            lacks = _distributed(found, held, here, spans)
            if lacks:
                return Inside(lacks)
        if any(_MODEL.fullmatch(name) or _OPTIMIZER.fullmatch(name) for name in names):
            lacks, told = _ranks(held, here)
            if lacks:
                return Inside(lacks)
            step = told if step is None else step
    return Inside("", step, spans)


def json_object(held: Held, path: str) -> dict[str, Any] | None:
    """A file's content; None where it is no JSON object."""
    with held[path].open("rb") as file:
        text = file.read(_MOST_INDEX + 1)
    try:
        body = json.loads(text) if len(text) <= _MOST_INDEX else None
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _by_folder(found: Found) -> Iterator[tuple[str, list[str]]]:
    folders: dict[str, list[str]] = {}
    for path in found.files:
        folder, slash, name = path.rpartition("/")
        folders.setdefault(folder + slash, []).append(name)
    yield from folders.items()


# ------------------------------------------------------------------------------------------- weights in several files


def _index(held: Held, here: dict[str, str], index: str) -> str:
    body = json_object(held, here[index])
    shards = body.get("weight_map") if body is not None else None
    if body is None:
        return f"{here[index]} can't be read"
    if not isinstance(shards, dict):
        return ""  # an index of something else
    for name in sorted({str(name) for name in shards.values()}):
        if name not in here:
            return f"{name} is missing, which {index} names"
    return ""


# ----------------------------------------------------------------------------------------- torch.distributed.checkpoint


def _distributed(found: Found, held: Held, here: dict[str, str], spans: dict[str, list[Span]]) -> str:
    """Each byte of each shard is named by the metadata, which is written last; an older one would be another save's."""
    own = {int(match[1]): name for name in here if (match := _RANKS_OWN.fullmatch(name))}
    shards = {name: int(match[1]) for name in here if (match := _SHARD.fullmatch(name))}
    if ".metadata" in here:
        metadata = [".metadata"]
    else:
        if not own:
            return "no .metadata"
        ranks = range(max([*own, *shards.values()]) + 1)
        if missing := [rank for rank in ranks if rank not in own]:
            return f"no __{missing[0]}.metadata"
        metadata = list(own.values())
    extents: dict[str, list[tuple[int, int]]] = {}
    for name in metadata:
        if not _take_extents(held, here[name], extents):
            return f"{here[name]} can't be read"
    newest = max(found.files[here[name]].mtime_ns for name in metadata)
    for name in sorted({*extents, *(name for name in here if name.endswith(".distcp"))}):
        if name not in here:
            return f"{name} is missing, which the metadata names"
        stamp = found.files[here[name]]
        if max((end for _, end in extents.get(name, ())), default=0) != stamp.size:
            return f"{here[name]} has {stamp.size} bytes, the metadata names others"
        if stamp.mtime_ns > newest:
            return f"{here[name]} is newer than its metadata"
        read = _items(held, here[name], extents.get(name, []))
        if read is None:
            return f"{here[name]}: an item in it is torn"
        spans[here[name]] = read
    return ""


def _take_extents(held: Held, path: str, extents: dict[str, list[tuple[int, int]]]) -> bool:
    try:
        body = unpickle.load_file(held[path])
    except Unreadable:
        return False
    items = body.get("storage_data") if isinstance(body, Stub) else None
    if not isinstance(items, dict):
        return False
    for item in items.values():
        if not isinstance(item, Stub):
            return False
        name, start, length = item.get("relative_path"), item.get("offset"), item.get("length")
        if not isinstance(name, str) or type(start) is not int or type(length) is not int or min(start, length) < 0:
            return False
        extents.setdefault(PurePosixPath(name).name, []).append((start, start + length))
    return True


def _items(held: Held, path: str, extents: list[tuple[int, int]]) -> list[Span] | None:
    """The checksums of the items in a shard, where they carry any: torch.save wrote each. None: one is torn."""
    found: list[Span] = []
    with held[path].open("rb") as file:
        for start, end in sorted(set(extents)):
            file.seek(start)
            if file.read(4) != b"PK\x03\x04":
                continue
            spans = zip_spans(file, start, end)
            if spans is None:
                return None
            found += spans
    return found


# --------------------------------------------------------------------------------------------------------- DeepSpeed


def _ranks(held: Held, here: dict[str, str]) -> tuple[str, int | None]:
    """(what is missing, the step): its ``latest`` may come before other ranks have written, so the files are counted
    against the world size that rank 0's says."""
    models = {name: match for name in here if (match := _MODEL.fullmatch(name))}
    first = next((name for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")
                  if name in here), None)  # fmt: skip
    if first is None:
        return "no mp_rank_00_model_states.pt", None
    try:
        state = unpickle.load_torch(held[here[first]])
    except Unreadable as why:
        return f"{here[first]}: {why}", None
    if not isinstance(state, dict):
        return f"{here[first]} is no state of DeepSpeed's", None
    data, model = unpickle.number(state.get("dp_world_size")), unpickle.number(state.get("mp_world_size"))
    if not data or not model or data * model > 1_000_000:
        return f"{here[first]} does not say its world size", None
    sharded = any(match[1] for match in models.values())
    optimizers = {(int(match[2]), int(match[3])) for name in here if (match := _OPTIMIZER.fullmatch(name))}
    there = {(int(match[2] or 0), int(match[3])) for match in models.values()}
    for tensor_rank in range(model):
        for rank in range(data if sharded else 1):
            if (rank, tensor_rank) not in there:
                return f"the model states of rank {rank}, {tensor_rank} are missing", None
        if optimizers or state.get("param_shapes") is not None:  # ZeRO: each rank has a part of the optimiser
            for rank in range(data):
                if (rank, tensor_rank) not in optimizers:
                    return f"the optimiser states of rank {rank}, {tensor_rank} are missing", None
    return "", unpickle.number(state.get("global_steps"))
