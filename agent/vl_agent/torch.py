"""Three lines that make a PyTorch script resume bit for bit: ``Checkpointer``.

    ckpt = Checkpointer("ckpt", model=model, optimizer=optimizer, scheduler=scheduler, loader=loader, total_steps=2000)
    for step, batch in ckpt.batches():
        loss = ...
        ckpt.step(step, loss)

Saved are model, optimiser, scheduler, anything else with a state_dict, the RNG of Python, NumPy, torch and CUDA, and
the position in the data. Under vl-agent it also tells step and exact loss, follows the person's cadence, and on a
notice saves and stops at once, so that no step is lost. Without vl-agent it works alone.

Standard library and torch only: this module enters the training process.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from vl_agent import control

FORMAT = 1
_NAME = re.compile(r"step-(\d{9,})\.pt")
_DEFAULT_EVERY_S = 60.0


class Stateful(Protocol):
    """Whatever can be saved: modules, optimisers, schedulers, scalers, averaged models."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class Checkpointer:
    """Saves and restores one process's training. ``folder`` is made where it is missing.

    ``every`` is seconds between saves (``every_steps``: steps, instead); the cadence in run.yaml goes before both.
    ``keep``: how many files stay in ``folder``, at least two, so that a torn newest one costs one interval. ``extras``:
    any other object with state_dict and load_state_dict, by name.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        model: Stateful,
        optimizer: Stateful | None = None,
        scheduler: Stateful | None = None,
        loader: DataLoader[Any] | None = None,
        total_steps: int | None = None,
        every: float = _DEFAULT_EVERY_S,
        every_steps: int | None = None,
        keep: int = 2,
        **extras: Stateful,
    ) -> None:
        ranks = torch.distributed
        if ranks.is_available() and ranks.is_initialized() and ranks.get_world_size() > 1:
            raise RuntimeError("vl_agent.torch.Checkpointer saves one process; this is one of several ranks.")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extras}
        self._parts: dict[str, Stateful] = {name: part for name, part in parts.items() if part is not None}
        self._data = None if loader is None else _DataPosition(loader)
        self.total_steps = total_steps
        self._every, self._every_steps, self._keep = every, every_steps, max(2, keep)
        self._control = os.environ.get("VL_CONTROL", "")
        self._notice = os.path.join(self._control, "notice.json") if self._control else ""
        self._progress = control.Progress(self._control or None)
        self._progress.tell(helper=1, pid=os.getpid())
        self._restored: int | None = None
        self._rng: Mapping[str, Any] | None = None
        self._last_save = time.monotonic()
        self._saved_step = -1
        self._proved = False

    # ----------------------------------------------------------------------------------------------- in the loop

    def batches(self) -> Iterator[tuple[int, Any]]:
        """(step about to be done, from 1; batch), across epochs, from the restored position on, up to ``total_steps``
        (without it: for ever)."""
        if self._data is None:
            raise ValueError("Checkpointer.batches() needs the loader: Checkpointer(..., loader=loader).")
        step = self.restore()
        rng, self._rng = self._rng, None
        while self.total_steps is None or step < self.total_steps:
            before = step
            for batch in self._data.epoch(rng):
                step += 1
                yield step, batch
                if self.total_steps is not None and step >= self.total_steps:
                    return
            if step == before and rng is None:
                raise ValueError("Checkpointer.batches(): the loader gave no batch in a whole epoch.")
            rng = None

    def step(self, step: int, loss: Any = None) -> None:
        """Call once after each step. Tells step and exact loss (a number or a tensor of one element; reading a CUDA
        tensor waits for the GPU, so pass it only now and then there), saves when it is time, and on a notice saves and
        ends the process with exit status 75."""
        number = loss.detach() if isinstance(loss, torch.Tensor) else loss
        words = control.loss_words(None if number is None else float(number))
        self._progress.tell(step=step, **words, total=self.total_steps, t=time.time())
        if self._notice and os.path.exists(self._notice):
            self._stop(step)
        if step == self.total_steps or self.should_save(step):
            self.save(step)

    def should_save(self, step: int) -> bool:
        """Whether the cadence wants a save now. For loops of one's own; ``step`` asks it by itself."""
        told = control.read_cadence(self._control) if self._control else None
        if told is None and self._every_steps is not None:
            return step > 0 and step % self._every_steps == 0
        return time.monotonic() - self._last_save >= (self._every if told is None else told)

    def save(self, step: int) -> Path:
        """Save now: temporary file, fsync, rename, fsync of the folder. Returns the file. Raises ``OSError``."""
        began = time.monotonic()
        path = self.folder / f"step-{step:09d}.pt"
        temporary = self.folder / f".{path.name}.{os.getpid()}.tmp"
        try:
            with temporary.open("wb") as file:
                torch.save(self._state(step), file)
                file.flush()
                os.fsync(file.fileno())
            if not self._proved:
                self._prove(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(self.folder)
        self._last_save, self._saved_step = time.monotonic(), step
        self._progress.tell(saved=path.name, step=step, took_s=round(self._last_save - began, 4))
        for old in self._files()[self._keep :]:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()
        return path

    def restore(self) -> int:
        """Load the newest whole checkpoint, if there is one; return how many steps are done. ``batches`` does it by
        itself; a loop of one's own calls it once, after everything is built. A torn file is said and passed over."""
        if self._restored is not None:
            return self._restored
        self._restored = 0
        for path in self._files():
            state = _load(path)
            if state is None:
                continue
            for name, part in self._parts.items():
                if name not in state["parts"]:
                    raise KeyError(f"{path}: has no {name!r}: it was saved by another script.")
                part.load_state_dict(state["parts"][name])
            self._restored = self._saved_step = int(state["step"])
            if self._data is not None and state["data"] is not None:
                self._data.restore(state["data"])
                self._rng = state["rng"]  # set after the iterator is made: making it draws from the RNG
            else:
                _set_rng(state["rng"])
            break
        return self._restored

    # ---------------------------------------------------------------------------------------------------- inside

    def _state(self, step: int) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "step": step,
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "data": None if self._data is None else self._data.state(),
            "rng": _get_rng(),
        }

    def _stop(self, step: int) -> None:
        notice = control.read_notice(self._control) or control.Notice("notice", None)
        if self._saved_step != step:
            self.save(step)
        self._progress.tell(stopped=step, why=notice.why)
        _say(f"{notice.why}: saved step {step}, stopping")
        raise SystemExit(control.STOPPED_EXIT)

    def _prove(self, path: Path) -> None:
        """The first save is read back at once: better now than after the preemption."""
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            raise TypeError(
                f"this training's state can't be restored safely: {error} Keep to tensors, numbers, strings, lists and"
                " dicts in state_dict()."
            ) from error
        self._proved = True

    def _files(self) -> list[Path]:
        """Saved files, newest first."""
        found = [(int(match[1]), path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found, reverse=True)]


class _DataPosition:
    """Where a loader stands: the RNG as it was when the epoch began, and how many batches were delivered since.

    Sampler state would not do: the loader asks its sampler ahead of what it delivers. Skipped batches are skipped by
    index, nothing of them is read.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader
        self._epoch = self._delivered = 0
        self._resume: Mapping[str, Any] | None = None
        self._begin: dict[str, Any] = {}
        sampler = loader.sampler
        if isinstance(sampler, RandomSampler) and sampler.generator is None and loader.generator is None:
            # Its own generator: the global one is not drawn from at a moment that workers and prefetching decide.
            sampler.generator = torch.Generator().manual_seed(torch.initial_seed())
        if loader.num_workers:
            _say(
                "exact as long as the dataset does not draw random numbers in its workers (their streams begin anew);"
                " seed such draws by (seed, epoch, index)"
            )

    def state(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "delivered": self._delivered, "begin": self._begin}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._epoch, self._resume = int(state["epoch"]), state

    def epoch(self, rng: Mapping[str, Any] | None) -> Iterator[Any]:
        """The batches of one epoch, from the restored position on. ``rng``: set once the iterator is made."""
        resume, self._resume = self._resume, None
        if resume is not None:
            self._restore_begin(resume["begin"])
        self._begin = {"rng": _get_rng(), "generators": [g.get_state() for g in self._generators()]}
        self._delivered = 0 if resume is None else int(resume["delivered"])
        if hasattr(self._loader.sampler, "set_epoch"):
            self._loader.sampler.set_epoch(self._epoch)
        iterator = self._iterator(self._delivered)
        if rng is not None:
            _set_rng(rng)
        for batch in iterator:
            self._delivered += 1
            yield batch
        self._epoch += 1
        self._delivered = 0

    def _restore_begin(self, begin: Mapping[str, Any]) -> None:
        if begin:
            _set_rng(begin["rng"])
            for generator, state in zip(self._generators(), begin["generators"], strict=True):
                generator.set_state(state)

    def _iterator(self, skip: int) -> Iterator[Any]:
        """The loader's iterator without its first ``skip`` batches."""
        loader = self._loader
        if not skip:
            return iter(loader)
        if isinstance(loader.dataset, IterableDataset):
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
        for owner in (self._loader, self._loader.sampler, self._loader.batch_sampler):
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


def _get_rng() -> dict[str, Any]:
    """Every RNG's state, as tensors, numbers and lists only: what ``weights_only`` reads back."""
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {"python": [version, list(internal), gauss], "torch": torch.get_rng_state()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        kind, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
        state["numpy"] = [kind, [int(key) for key in keys], int(position), int(has_gauss), float(cached)]
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_rng(state: Mapping[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        import numpy

        kind, keys, position, has_gauss, cached = state["numpy"]
        numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached))
    if "cuda" in state and torch.cuda.is_available():
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
        else:
            _say(f"saved on {len(state['cuda'])} GPUs, {torch.cuda.device_count()} here: CUDA's random streams differ")


def _load(path: Path) -> Any:
    """A checkpoint's content; None for a torn file, which is said."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        _say(f"{path} can't be read ({type(error).__name__}), the one before is used")
        return None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        _say(f"{path} is not a checkpoint of this version, the one before is used")
        return None
    return state


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _say(words: str) -> None:
    print(f"vl: {words}", file=sys.stderr, flush=True)
