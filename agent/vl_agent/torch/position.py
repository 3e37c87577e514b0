"""Where a training stands in its data."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from vl_agent.torch.rng import get_rng, set_rng
from vl_agent.torch.words import say


class DataPosition:
    """Where a loader stands: the RNG as it was when the epoch began, and how many batches were delivered since.

    Sampler state would not do: the loader asks its sampler ahead of what it delivers. Skipped batches are skipped by
    index, nothing of them is read. A loader that knows its own place (torchdata's StatefulDataLoader) is asked for it.
    """

    def __init__(self, loader: Any, *, own_generator: bool = True) -> None:
        """``own_generator``: a sampler that draws from the global one gets one of its own, which makes its order
        independent of workers and prefetching, and another than it would have been."""
        self._loader = loader
        self._epoch = self._delivered = 0
        self._is_under_way = False
        self._resume: Mapping[str, Any] | None = None
        self._begin: dict[str, Any] = {}
        self._knows_itself = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
        sampler = getattr(loader, "sampler", None)
        if own_generator and type(sampler) is RandomSampler and sampler.generator is None and loader.generator is None:
            # Its own generator: the global one is not drawn from at a moment that workers and prefetching decide.
            sampler.generator = torch.Generator().manual_seed(torch.initial_seed())
        for words in _limits(loader, self._knows_itself):
            say(words)

    def state(self, *, at_end: bool = False) -> dict[str, Any]:
        """``at_end``: the epoch is over, though the loader was not asked for a batch after its last."""
        if self._resume is not None:  # restored, and not begun yet
            return dict(self._resume)
        if at_end or not self._is_under_way:
            epoch = self._epoch + at_end
            return {"epoch": epoch, "delivered": 0, "begin": self._now(), "loader": None, "between": True}
        own = _plain(self._loader.state_dict()) if self._knows_itself else None
        return {"epoch": self._epoch, "delivered": self._delivered, "begin": self._begin, "loader": own}

    def restore(self, state: Mapping[str, Any], ranks: tuple[int, int] = (1, 1)) -> None:
        """``ranks``: how many there were when it was saved, and how many there are."""
        before, now = ranks
        if before != now:  # as many samples of the epoch, on other ranks
            state = {**state, "delivered": int(state["delivered"]) * before // now, "loader": None}
        self._epoch, self._resume = int(state["epoch"]), state

    def epoch(self, rng: Mapping[str, Any] | None) -> Iterator[Any]:
        """The batches of one epoch, from the restored position on; its iterator is made at once. ``rng``: as it was
        when the position was taken; put back by the time of the first batch."""
        resume, self._resume = self._resume, None
        if resume is not None:
            self._restore_begin(resume["begin"])
            if resume.get("between") and rng is not None:  # the iterator was not made yet: making it draws
                set_rng(rng)
                rng = None
        elif self._delivered:  # whoever counts batches asks for none after the last
            self._epoch += 1
        self._begin = self._now()
        self._delivered = 0 if resume is None else int(resume["delivered"])
        if hasattr(getattr(self._loader, "sampler", None), "set_epoch"):
            self._loader.sampler.set_epoch(self._epoch)
        own = None if resume is None else resume.get("loader")
        if self._knows_itself and own is not None:
            self._loader.load_state_dict(_with_arrays(own))
            iterator = iter(self._loader)
        else:
            iterator = self._iterator(self._delivered)
        self._is_under_way = True
        return self._deliver(iterator, rng)

    def _deliver(self, iterator: Iterator[Any], rng: Mapping[str, Any] | None) -> Iterator[Any]:
        if rng is not None:
            set_rng(rng)
        for batch in iterator:
            self._delivered += 1
            yield batch
        self._epoch += 1
        self._delivered = 0
        self._is_under_way = False

    def _now(self) -> dict[str, Any]:
        return {"rng": get_rng(), "generators": [g.get_state() for g in self._generators()]}

    def _restore_begin(self, begin: Mapping[str, Any]) -> None:
        set_rng(begin["rng"])
        for generator, state in zip(self._generators(), begin["generators"], strict=True):
            generator.set_state(state)

    def _iterator(self, skip: int) -> Iterator[Any]:
        """The loader's iterator without its first ``skip`` batches."""
        loader = self._loader
        if not skip:
            return iter(loader)
        if isinstance(getattr(loader, "dataset", None), IterableDataset) or not isinstance(loader, DataLoader):
            return itertools.islice(iter(loader), skip, None)  # nothing to skip by: read and drop
        name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        whole = getattr(loader, name)
        # DataLoader refuses the assignment once it is made; its iterator reads the attribute when it is made.
        skipping = _Skipping(whole, skip)
        object.__setattr__(loader, name, skipping)
        try:
            return iter(loader)
        finally:
            object.__setattr__(loader, name, whole)
            skipping.disarm()

    def _generators(self) -> list[torch.Generator]:
        found: list[torch.Generator] = []
        loader = self._loader
        for owner in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator) and all(generator is not other for other in found):
                found.append(generator)
        return found


class _Skipping:
    """A sampler without its first entries, for the one iterator made while it is armed. Loaders ask a sampler for more
    than one iterator and persistent workers ask it again each epoch, so nothing is drawn before an entry is wanted."""

    def __init__(self, whole: Any, skip: int) -> None:
        self._whole, self._skip = whole, skip
        self._entries: _Entries | None = None
        self._armed = True

    def __iter__(self) -> Iterator[Any]:
        if not self._armed:
            return iter(self._whole)
        self._entries = _Entries(self._whole, self._skip)
        return self._entries

    def __len__(self) -> int:
        return max(0, len(self._whole) - (self._skip if self._armed else 0))

    def disarm(self) -> None:
        """Draw what the loader would draw before its first batch: the saved RNG is put back after this."""
        self._armed = False
        if self._entries is not None:
            self._entries.prime()


class _Entries:
    """A sampler's entries after the first ``skip``."""

    def __init__(self, whole: Any, skip: int) -> None:
        self._whole, self._skip = whole, skip
        self._left: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self.prime())

    def prime(self) -> Iterator[Any]:
        if self._left is None:
            entries = itertools.islice(iter(self._whole), self._skip, None)
            self._left = itertools.chain(list(itertools.islice(entries, 1)), entries)
        return self._left


_KNOWN_SAMPLERS = (
    SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler,
)  # fmt: skip
_ARRAY = "vl:array"


def _limits(loader: Any, knows_itself: bool) -> Iterator[str]:
    """What of this loader's order or content can't be promised to come back."""
    if getattr(loader, "num_workers", 0):
        yield (
            "exact as long as the dataset does not draw random numbers in its workers (their streams begin anew);"
            " seed such draws by (seed, epoch, index)"
            + (", or carry the generators in the dataset's own state_dict()" if knows_itself else "")
        )
    if knows_itself:
        return
    if isinstance(getattr(loader, "dataset", None), IterableDataset) or not isinstance(loader, DataLoader):
        yield "the data has no index: on resume it is read from the epoch's begin and dropped; exact if its order is"
        return
    sampler, batch_sampler = loader.sampler, loader.batch_sampler
    if type(sampler) not in _KNOWN_SAMPLERS or type(batch_sampler) not in (BatchSampler, type(None)):
        other = sampler if type(sampler) not in _KNOWN_SAMPLERS else batch_sampler
        yield (
            f"{type(other).__name__}: its order comes back if it follows from set_epoch() and the generators of Python,"
            " NumPy and torch alone"
        )


def _plain(found: Any) -> Any:
    """NumPy's arrays as tensors: what ``weights_only`` reads back."""
    if isinstance(found, dict):
        return {key: _plain(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return type(found)(_plain(value) for value in found) if type(found) in (list, tuple) else found
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(found, numpy.ndarray):
        return {_ARRAY: torch.frombuffer(bytearray(found.tobytes()), dtype=torch.uint8) if found.size else None,
                "dtype": found.dtype.str, "shape": list(found.shape)}  # fmt: skip
    if numpy is not None and isinstance(found, numpy.generic):
        return found.item()
    return found


def _with_arrays(found: Any) -> Any:
    """``_plain`` undone."""
    if isinstance(found, dict):
        if _ARRAY in found:
            import numpy

            content = b"" if found[_ARRAY] is None else found[_ARRAY].numpy().tobytes()
            return numpy.frombuffer(bytearray(content), dtype=found["dtype"]).reshape(found["shape"])
        return {key: _with_arrays(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return type(found)(_with_arrays(value) for value in found)
    return found
