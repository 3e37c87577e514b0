"""A training's state as bytes: pickled objects and the content of their tensors, and memory that is kept for copies.

What makes a copy slow is touching new memory, ten times as slow as the copy itself: so the memory is made once, touched
once, and used again for every save.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vl_agent.archive import ALIGNMENT
from vl_agent.writer import Piece

_TOUCH = 16 << 20
_SMALL = 4 << 20
"""Less than this is copied at once: waking a thread costs more."""
_ENTRY = 64
"""Bytes that one piece takes in a job's table, at most."""


@dataclass(frozen=True)
class Pickled:
    """What becomes one archive (``vl_agent.archive``)."""

    pickle: bytes
    storages: Sequence[torch.Tensor]
    """Flat, of bytes, on any device; contiguous."""


_cuda: Any = torch.cuda
Places = tuple[tuple[Piece, tuple[Piece, ...]], ...]


def pickled(found: Any) -> Pickled:
    """``found`` as ``torch.save`` would write it; its tensors come back on the CPU."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(found)
    return Pickled(file.getvalue(), [_bytes_of(storage) for storage in pickler.storages])


def pickled_tensor(tensor: torch.Tensor) -> Pickled:
    """The elements of one tensor, whatever they are a view of, as ``torch.save`` would write them."""
    whole = tensor.detach().resolve_conj().contiguous()
    outline = pickled(torch.empty(whole.shape, dtype=whole.dtype))  # memory that nobody touches
    content = whole.view(-1).view(torch.uint8) if whole.numel() else torch.empty(0, dtype=torch.uint8)
    return Pickled(outline.pickle, [content])


def lay_out(archives: Sequence[Pickled]) -> tuple[Places, int, int]:
    """Where everything goes in one flat memory, where the table of all that goes, and how much is needed in all."""
    at = 0

    def place(length: int) -> Piece:
        nonlocal at
        begin = at
        at += length + -length % ALIGNMENT
        return begin, length

    places = tuple(
        (place(len(one.pickle)), tuple(place(storage.numel()) for storage in one.storages)) for one in archives
    )
    count = sum(1 + len(one.storages) for one in archives)
    return places, at, at + _ENTRY * (count + 64)


def content(archives: Sequence[Pickled]) -> tuple[Places, list[memoryview | torch.Tensor]]:
    """The same without any memory: each place is a number in the list."""
    found: list[memoryview | torch.Tensor] = []

    def place(one: memoryview | torch.Tensor) -> Piece:
        found.append(one)
        return len(found) - 1, len(one)

    places = tuple(
        (place(memoryview(one.pickle)), tuple(place(storage) for storage in one.storages)) for one in archives
    )
    return places, found


def memory_of(tensor: torch.Tensor) -> memoryview:
    """The content of a flat tensor of bytes; it must outlive this. Copies what is on another device."""
    here = tensor.cpu()
    if not here.numel():
        return memoryview(b"")
    array = (ctypes.c_char * here.numel()).from_address(here.data_ptr())
    array._owner = here  # type: ignore[attr-defined]
    return memoryview(array).cast("B")


class Buffer:
    """Memory that another process can map. ``warm`` it before it is used for the first time."""

    def __init__(self, size: int) -> None:
        """Raises ``OSError``."""
        self.size = size + -size % mmap.PAGESIZE
        self.fd = os.memfd_create("vl-save", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, self.size)
            self._map = mmap.mmap(self.fd, self.size)
        except BaseException:
            os.close(self.fd)
            raise
        self._whole = torch.frombuffer(self._map, dtype=torch.uint8)
        self._pinned = False
        self.is_warm = False

    def warm(self) -> None:
        """Touch every page; with CUDA, pin them all, so that the GPU writes them by itself."""
        address = self._whole.data_ptr()
        for at in range(0, self.size, _TOUCH):
            ctypes.memset(address + at, 0, min(_TOUCH, self.size - at))
        if torch.cuda.is_available():
            self._pinned = int(_cuda.cudart().cudaHostRegister(address, self.size, 0)) == 0
        self.is_warm = True

    def fill(self, archives: Sequence[Pickled], places: Places, copier: Copier) -> None:
        """Copy everything to its place; returns when all of it is there."""
        pairs = []
        for one, (head, storages) in zip(archives, places, strict=True):
            self.put(head[0], one.pickle)
            pairs += [
                (self._whole[at : at + length], storage)
                for storage, (at, length) in zip(one.storages, storages, strict=True)
            ]
        copier.copy(pairs)

    def put(self, at: int, body: bytes) -> None:
        self._map[at : at + len(body)] = body

    def view(self, at: int, length: int) -> memoryview:
        return memoryview(self._map)[at : at + length]

    def close(self) -> None:
        """The memory itself goes when the last that has it mapped is gone."""
        if self._pinned:
            _cuda.cudart().cudaHostUnregister(self._whole.data_ptr())
        os.close(self.fd)


class Copier:
    """Copies tensors into a buffer by a few threads; none of torch's own, whose number changes the order of sums."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "vl-copy") if threads > 1 else None

    def copy(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Each second one's bytes to the first one."""
        here = [(to.data_ptr(), of.data_ptr(), of.numel()) for to, of in pairs if of.device.type == "cpu"]
        beyond = [(to, of) for to, of in pairs if of.device.type != "cpu"]
        if beyond:
            _copy_from_devices(beyond)
        if self._pool is None or sum(length for _, _, length in here) < _SMALL:
            _copy_all(here)
        else:
            list(self._pool.map(_copy_all, _shares(here, self._threads)))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False)


Stretch = tuple[int, int, int]
"""Address to copy to, address to copy from, bytes."""


def _copy_all(stretches: Sequence[Stretch]) -> None:
    for to, of, length in stretches:
        ctypes.memmove(to, of, length)


def _shares(stretches: Sequence[Stretch], count: int) -> list[list[Stretch]]:
    """Cut into ``count`` lists of equally many bytes."""
    each = -(-sum(length for _, _, length in stretches) // count)
    shares: list[list[Stretch]] = [[]]
    left = each
    for to, of, length in stretches:
        done = 0
        while done < length:
            if not left:
                shares.append([])
                left = each
            step = min(left, length - done)
            shares[-1].append((to + done, of + done, step))
            done, left = done + step, left - step
    return shares


def _copy_from_devices(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """GPUs write into pinned memory by themselves, each on a stream of its own behind the work that is queued there;
    the trainer waits for them: its next step may change what is copied."""
    streams: dict[torch.device, Any] = {}
    for to, of in pairs:
        if of.device.type != "cuda":
            to.copy_(of)
            continue
        stream = streams.get(of.device)
        if stream is None:
            stream = streams[of.device] = _cuda.Stream(of.device)
            stream.wait_stream(torch.cuda.current_stream(of.device))
        with torch.cuda.stream(stream):
            to.copy_(of, non_blocking=True)
    for stream in streams.values():
        stream.synchronize()


class _Pickler(pickle.Pickler):
    """As torch's own: storages go beside the pickle, each once."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)
        self.storages: list[torch.UntypedStorage] = []
        self._keys: dict[int, str] = {}

    def persistent_id(self, found: Any) -> tuple[Any, ...] | None:
        if isinstance(found, torch.storage.TypedStorage):
            typed: Any = found
            storage, count = typed._untyped_storage, typed._size()
            kind = getattr(torch, typed._pickle_storage_type())
        elif isinstance(found, torch.UntypedStorage):
            storage, count, kind = found, found.nbytes(), torch.UntypedStorage
        else:
            return None
        key = self._keys.get(storage._cdata)
        if key is None:
            key = self._keys[storage._cdata] = str(len(self.storages))
            self.storages.append(storage)
        return "storage", kind, key, "cpu", count


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def room() -> int:
    """Bytes of memory that may still be taken here: by what the machine has available, and by the limits of the cgroups
    that this process is in."""
    found = [_available(), *(_left(folder) for folder in _cgroups())]
    return min((number for number in found if number is not None), default=0)


def _available() -> int | None:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroups() -> list[Path]:
    """This process's memory cgroups, version 2 or 1, up to the root: a container sees its own as the root."""
    folders = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        root = Path("/sys/fs/cgroup", "memory" if "memory" in controllers.split(",") else "")
        if not controllers or "memory" in controllers.split(","):
            inner = root / path.lstrip("/")
            folders += [folder for folder in (inner, *inner.parents) if folder == root or root in folder.parents]
    return folders


def _left(folder: Path) -> int | None:
    """What a cgroup's limit leaves; pages of files that nobody uses do not count. None: it has no limit."""
    for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        most, used = _read(folder / limit).strip(), _read(folder / usage).strip()
        if most.isdecimal() and used.isdecimal():
            stat = dict(line.split()[:2] for line in _read(folder / "memory.stat").splitlines())
            idle = int(stat.get("total_inactive_file", stat.get("inactive_file", "0")))
            return int(most) - int(used) + idle
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
