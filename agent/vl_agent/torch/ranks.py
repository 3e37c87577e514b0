"""Several ranks as one training: when they save together, and checkpoints as torch.distributed.checkpoint has them.

Each rank captures its own shards and has its own writer; the first rank's writer gives the folder its name once every
part is there. Models and optimisers are saved by the names of their parameters, so that another number of ranks can
load them; what only one rank knows (its random streams, its place in the data) is under its own key.
"""

from __future__ import annotations

import io
import pickle
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import filesystem, state_dict, state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.optim import Optimizer

from vl_agent import archive
from vl_agent.torch.capture import Pickled, pickled_tensor
from vl_agent.writer import Job, Part

_LOOK_S = 0.5
"""Ranks agree whether to save about so often; in between a step costs them nothing."""
_MOST_STEPS = 1000
_TENSOR = "vl:tensor"
_NAME = "vl_agent"


class Ranks:
    """This rank among the others. Making it is collective, and so are its methods."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo")  # its own: never between two collectives of the training
        self._looked_at, self._looked_step, self._next_look = time.monotonic(), 0, 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def agree(self, step: int, wish: tuple[bool, bool, bool], *, now: bool) -> tuple[bool, bool, bool]:
        """One answer for all of (stop, save, busy): stop if any rank is told to, save if the first one wants to, busy
        if any is. Asked only now and then, unless ``now``, which all ranks must say together."""
        if not now and step < self._next_look:
            return False, False, False
        passed, steps = time.monotonic() - self._looked_at, max(1, step - self._looked_step)
        pause = min(_MOST_STEPS, max(1, int(_LOOK_S * steps / max(passed, 1e-6))))
        stop, save, is_busy = wish
        words = [stop, save and self.is_first, is_busy, pause if self.is_first else 0]
        stop_all, save_all, busy_any, pause = self._most(words)
        self._looked_at, self._looked_step, self._next_look = time.monotonic(), step, step + pause
        return bool(stop_all), bool(save_all), bool(busy_any)

    def any(self, found: bool) -> bool:
        return bool(self._most([found])[0])

    def first(self, words: list[str]) -> list[str]:
        """The first rank's list."""
        holder: list[list[str]] = [words]
        dist.broadcast_object_list(holder, src=0, group=self._group)
        return holder[0]

    def wait(self) -> None:
        """Until every rank is here."""
        dist.barrier(self._group)

    def capture(self, job: Job, parts: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[Job, list[Pickled], bytes]:
        """The job of this rank, what it saves, and the folder's metadata (the first rank's; else empty)."""
        [nonce] = self.first([secrets.token_hex(4)])
        tensors: dict[str, torch.Tensor] = {}
        outline = {name: split(found, name, tensors) for name, found in state_of(parts).items()}
        tensors[_key(self.rank)] = _packed({**own, "parts": outline, "ranks": self.size})
        plan = _Plan(self.rank)
        state_dict_saver.save(tensors, storage_writer=plan, process_group=self._group)
        part = Part(f".{job.name}.{nonce}.tmp", plan.file, None, plan.parts or None)
        return replace(job, part=part), plan.archives, plan.metadata

    def load(self, folder: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
        return load(folder, parts, self.rank, self._group)

    def load_whole(self, parts: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
        """Put what one process without ranks has saved into ``parts``; each rank takes its share."""
        found = dict(state["parts"])
        if "optimizer" in parts and _is_the_optimizer("optimizer", parts["optimizer"], parts):
            found["optimizer"] = by_names(parts["model"], parts["optimizer"], found["optimizer"])
        put_state(parts, found, whole=True)
        return {**state, "ranks": 1, "is_own": self.is_first}

    def damage(self, folder: Path) -> str:
        """Why the folder can't be used; each rank reads its share of it."""
        try:
            why = damage(folder, self.rank, self.size)
        except Exception as error:  # noqa: BLE001 - a rank that leaves here would let the others wait for ever
            why = f"{type(error).__name__}: {error}"
        is_bad = self.any(bool(why))
        return why or ("another rank found it damaged" if is_bad else "")

    def _most(self, words: Sequence[int]) -> list[int]:
        found = torch.tensor([int(word) for word in words], dtype=torch.int64)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self._group)
        return [int(word) for word in found]


def load(folder: Path, parts: Mapping[str, Any], rank: int = 0, group: Any = None) -> dict[str, Any]:
    """Put a folder's content into ``parts``; return what the rank of this number had for itself, or, where there was
    none, what the first had. Every rank of ``group`` at once."""
    reader = _Reader(folder)
    known: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    key = _key(rank) if _key(rank) in known else _key(0)
    if key not in known:
        raise KeyError(f"{folder}: was not saved by vl_agent.torch.")
    own: dict[str, torch.Tensor] = {key: torch.empty(known[key].size, dtype=torch.uint8)}
    state_dict_loader.load(own, storage_reader=reader, process_group=group)
    state: dict[str, Any] = torch.load(io.BytesIO(own[key].numpy().tobytes()), map_location="cpu", weights_only=True)
    missing = [name for name in parts if name not in state["parts"]]
    if missing:
        raise KeyError(f"{folder}: has no {missing[0]!r}: it was saved by another script.")
    here: dict[str, torch.Tensor] = {}
    for name, found in state_of(parts).items():
        split(found, name, here)
    tensors = {}
    for path in _paths({name: state["parts"][name] for name in parts}):
        tensors[path] = here[path] if path in here else _room_for(known[path])
    state_dict_loader.load(tensors, storage_reader=_Reader(folder), process_group=group)
    put_state(parts, {name: join(state["parts"][name], tensors) for name in parts})
    return {**state, "is_own": key == _key(rank)}


def damage(folder: Path, share: int = 0, shares: int = 1) -> str:
    """Why the folder can't be used, in words: CRCs of one of ``shares`` parts of it."""
    found = _Reader(folder).read_metadata().storage_data
    for info in list(found.values())[share::shares]:
        why = archive.damage(folder / info.relative_path, info.offset, info.length)
        if why:
            return f"{info.relative_path}: {why}"
    return ""


def state_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """State by name: of modules and their optimiser by parameter names, sharded tensors as they are."""
    found: dict[str, Any] = {}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            found[name] = state_dict.get_model_state_dict(part)
        elif _is_the_optimizer(name, part, parts):
            found[name] = state_dict.get_optimizer_state_dict(parts["model"], part)
        else:
            found[name] = part.state_dict()
    return found


def put_state(parts: Mapping[str, Any], state: Mapping[str, Any], *, whole: bool = False) -> None:
    """The other way. ``whole``: tensors are of all ranks together, not shards."""
    options = state_dict.StateDictOptions(full_state_dict=whole)
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            state_dict.set_model_state_dict(part, state[name], options=options)
        elif _is_the_optimizer(name, part, parts):
            state_dict.set_optimizer_state_dict(
                parts["model"], part, optim_state_dict=state[name], options=options
            )  # fmt: skip
        else:
            part.load_state_dict(state[name])


def split(found: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """``found`` without its tensors, which go into ``tensors`` by their paths."""
    if isinstance(found, torch.Tensor):
        tensors[path] = found
        return {_TENSOR: path}
    if isinstance(found, dict):
        return {key: split(value, f"{path}.{key}", tensors) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [split(value, f"{path}.{number}", tensors) for number, value in enumerate(found)]
    return found


def join(outline: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """``split`` undone (tuples come back as lists)."""
    if isinstance(outline, dict):
        if _TENSOR in outline:
            return tensors[outline[_TENSOR]]
        return {key: join(value, tensors) for key, value in outline.items()}
    if isinstance(outline, list):
        return [join(value, tensors) for value in outline]
    return outline


def _paths(outline: Any) -> list[str]:
    if isinstance(outline, dict):
        if _TENSOR in outline:
            return [outline[_TENSOR]]
        return [path for value in outline.values() for path in _paths(value)]
    if isinstance(outline, list):
        return [path for value in outline for path in _paths(value)]
    return []


def by_names(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimiser's state as one process saves it, its parameters by number, with their names instead."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    groups = [{**group, "params": [order[number] for number in group["params"]]} for group in state["param_groups"]]
    return {"state": {order[number]: found for number, found in state["state"].items()}, "param_groups": groups}


def _is_the_optimizer(name: str, part: Any, parts: Mapping[str, Any]) -> bool:
    return name == "optimizer" and isinstance(part, Optimizer) and isinstance(parts.get("model"), nn.Module)


def _key(rank: int) -> str:
    return f"{_NAME}.rank{rank}"


def _packed(state: Mapping[str, Any]) -> torch.Tensor:
    """Small objects as a tensor of bytes: DCP would read objects back by plain unpickling."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def _room_for(known: Any) -> torch.Tensor:
    return torch.empty(known.size, dtype=known.properties.dtype)


class _Plan(StorageWriter):  # type: ignore[misc, unused-ignore]
    """Lets DCP plan who saves what, and writes nothing: where each item will be in its file follows from its size."""

    def __init__(self, rank: int) -> None:
        self.file = f"__{rank}_0.distcp"
        self.archives: list[Pickled] = []
        self.metadata = b""
        self.parts: dict[str, int] = {}

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: Any) -> Any:
        return plan

    def prepare_global_plan(self, plans: Any) -> Any:
        return plans

    def write_data(self, plan: Any, planner: Any) -> Any:
        at, results = 0, []
        for item in plan.items:
            one = pickled_tensor(planner.resolve_data(item))
            at += -at % archive.ALIGNMENT
            length = archive.size(len(one.pickle), [storage.numel() for storage in one.storages])
            place = filesystem._StorageInfo(self.file, at, length)
            results.append(WriteResult(index=item.index, size_in_bytes=length, storage_data=place))
            self.archives.append(one)
            at += length
        future: Any = torch.futures.Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: Any) -> None:
        """The first rank's only."""
        metadata.storage_data = {one.index: one.storage_data for of_rank in results for one in of_rank}
        metadata.storage_meta = StorageMeta()
        for place in metadata.storage_data.values():
            self.parts[place.relative_path] = max(self.parts.get(place.relative_path, 0), place.offset + place.length)
        self.metadata = pickle.dumps(metadata)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


class _Reader(filesystem.FileSystemReader):  # type: ignore[misc, unused-ignore]
    """DCP's own, but for its unpickling of ``.metadata``, which would run whatever somebody put there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (self._folder / ".metadata").open("rb") as file:
            metadata: Metadata = _Unpickler(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        return metadata


class _Unpickler(pickle.Unpickler):
    """Reads what DCP's metadata is made of, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("torch.distributed.checkpoint.") and name.isidentifier():
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        if module == "torch" and (
            name == "Size" or isinstance(getattr(torch, name, None), (torch.dtype, torch.layout))
        ):
            return getattr(torch, name)
        if (module, name) in (("torch.serialization", "_get_layout"), ("collections", "OrderedDict")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no business in a checkpoint's metadata")
