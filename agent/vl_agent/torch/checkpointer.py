"""The helper itself: when to save, what of, and how it comes back."""

from __future__ import annotations

import copy
import io
import os
import pickle
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from vl_agent import archive, control, writer
from vl_agent.torch.capture import pickled
from vl_agent.torch.outbox import Outbox
from vl_agent.torch.position import DataPosition
from vl_agent.torch.rng import get_rng, set_rng
from vl_agent.torch.words import say
from vl_agent.writer import Job

if TYPE_CHECKING:
    from vl_agent.torch.ranks import Ranks

FORMAT = 1
_DEFAULT_EVERY_S = 60.0
_FORMER_S = 120.0
"""So long a former training's writer is waited for: it may be at the newest save."""


class Stateful(Protocol):
    """Whatever can be saved: modules, optimisers, schedulers, scalers, averaged models."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class Checkpointer:
    """Saves and restores a training. ``folder`` is made where it is missing.

    ``every`` is seconds between saves (``every_steps``: steps, instead); the cadence in run.yaml goes before both.
    ``keep``: how many saves stay in ``folder``, at least two, so that a torn newest one costs one interval. ``extras``:
    any other object with state_dict and load_state_dict, by name.

    Where torch.distributed is initialised, every rank makes one and calls all of its methods alike; ``folder`` is one
    that all ranks see. One process saves files (``step-000000040.pt``, as torch.save does), ranks save folders
    (``step-000000040``, as torch.distributed.checkpoint does).
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        model: Stateful,
        optimizer: Stateful | None = None,
        scheduler: Stateful | None = None,
        loader: Any = None,
        total_steps: int | None = None,
        every: float = _DEFAULT_EVERY_S,
        every_steps: int | None = None,
        keep: int = 2,
        **extras: Stateful,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extras}
        self._parts: dict[str, Stateful] = {name: part for name, part in parts.items() if part is not None}
        self._data = None if loader is None else DataPosition(loader)
        self.total_steps = total_steps
        self._every, self._every_steps, self._keep = every, every_steps, max(2, keep)
        self._control = os.environ.get("VL_CONTROL", "")
        self._notice = os.path.join(self._control, "notice.json") if self._control else ""
        self._ranks = _ranks()
        self._is_first = self._ranks is None or self._ranks.is_first
        self._progress = control.Progress(self._control if self._control and self._is_first else None)
        self._outbox = Outbox(self.folder, self._progress, say, self._lost)
        control.leave_signals_to_the_agent()
        self._progress.tell(helper=1, pid=os.getpid())
        self._restored: int | None = None
        self._rng: Mapping[str, Any] | None = None
        self._last_save = time.monotonic()
        self._saved_step = -1
        self._ready = self._late = False
        self._failed: set[int] = set()
        self._decided: tuple[int, bool, bool] = (-1, False, False)

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
        self._tell_step(step, loss)
        if not self._ready:
            self._make_ready(step)
        stop, save = self._decide(step)
        if stop:
            self._stop(step)
        if step == self.total_steps:
            self._save_surely(step)
        elif save:
            self._capture(step)

    def should_save(self, step: int) -> bool:
        """Whether it is time to save and nothing stands in the way. For loops of one's own; ``step`` asks it by
        itself. Where both buffers are still being written the save is passed over, which is said."""
        return self._decide(step)[1]

    def save(self, step: int) -> Path:
        """Save now: copies the state and leaves the writing to the other process; ``wait`` waits for it. Where two
        saves are being written already it waits for the older one. Returns where the save will be. Raises ``OSError``
        when it had to be written at once and could not be."""
        self._capture(step)
        return self.folder / self._name(step)

    def wait(self) -> None:
        """Until every save is on disk."""
        self._outbox.wait()
        if self._ranks is not None:
            self._ranks.wait()

    def close(self) -> None:
        """Wait for what is being written and give the memory back. At exit it is done by itself."""
        self._outbox.close()

    def restore(self) -> int:
        """Load the newest whole checkpoint, if there is one; return how many steps are done. ``batches`` does it by
        itself; a loop of one's own calls it once, after everything is built. A damaged one is said and passed over."""
        if self._restored is not None:
            return self._restored
        self._restored = 0
        for path in self._found():
            why = self._damage(path)
            state = None if why else self._load(path)
            if state is None:
                say(f"{path} can't be used ({why or 'another format'}), the one before is used")
                continue
            self._restored = self._saved_step = int(state["step"])
            self._resume(state)
            break
        return self._restored

    # ---------------------------------------------------------------------------------------------------- deciding

    def _decide(self, step: int) -> tuple[bool, bool]:
        """(stop, save) after this step; asked once for each."""
        if self._decided[0] != step:
            stop = bool(self._notice) and os.path.exists(self._notice)
            due, busy = self._is_due(step), not self._outbox.has_room
            if self._ranks is not None:
                at_once = self._every_steps is not None and step % self._every_steps == 0
                stop, due, busy = self._ranks.agree(step, (stop, due, busy), now=at_once)
            if due and busy and not stop and not self._late:
                self._late = True  # one save is late, however many steps it takes
                self._skipped(
                    step, "both buffers are still being written: saves are wanted faster than the disk takes them"
                )
            self._decided = (step, stop, due and not busy)
        return self._decided[1], self._decided[2]

    def _is_due(self, step: int) -> bool:
        told = control.read_cadence(self._control) if self._control else None
        if told is None and self._every_steps is not None:
            return step > 0 and step % self._every_steps == 0
        return time.monotonic() - self._last_save >= (self._every if told is None else told)

    def _stop(self, step: int) -> None:
        found = control.read_notice(self._control) if self._control else None
        notice = found or control.Notice("notice", None)  # another rank's, or one that can't be read
        self._save_surely(step)
        self._progress.tell(stopped=step, why=notice.why)
        say(f"{notice.why}: saved step {step}, stopping")
        raise SystemExit(control.STOPPED_EXIT)

    # ------------------------------------------------------------------------------------------------------- saving

    def _make_ready(self, step: int) -> None:
        """Once the first step has made the optimiser's state: prove that what will be saved can be read back (better
        now than after the preemption), start the writer, and touch the memory for the copies."""
        self._ready = True
        if self._ranks is None:
            state = self._state(step)
            _prove(state)
            self._outbox.prepare([pickled(state)])
        else:
            job = Job(str(self.folder), self._name(step), step, self._keep, 0.0, None, ())
            _, archives, _ = self._ranks.capture(job, self._parts, self._own(step))
            self._outbox.prepare(archives)

    def _state(self, step: int) -> dict[str, Any]:
        return {**self._own(step), "parts": {name: part.state_dict() for name, part in self._parts.items()}}

    def _own(self, step: int) -> dict[str, Any]:
        """What is this process's alone."""
        data = None if self._data is None else self._data.state()
        rng = get_rng() if self._rng is None else self._rng
        return {"format": FORMAT, "step": step, "data": data, "rng": rng}

    def _capture(self, step: int, *, here: bool = False) -> None:
        """``here``: written by this process, before it returns."""
        if not self._ready:
            self._make_ready(step)
        began = time.monotonic()
        self._failed.discard(step)
        self._late = False
        job = Job(str(self.folder), self._name(step), step, self._keep, began, None, ())
        metadata = b""
        if self._ranks is None:
            archives = [pickled(self._state(step))]
        else:
            job, archives, metadata = self._ranks.capture(job, self._parts, self._own(step))
        self._outbox.save(job, archives, metadata, here=here)
        self._last_save, self._saved_step = time.monotonic(), step

    def _save_surely(self, step: int) -> None:
        """Save, and return once it is on disk. It is written by this process: the training stands still anyway, and the
        writer lets everything else on the machine go first. Raises ``OSError``."""
        is_missing = self._saved_step != step
        if not is_missing:
            self._outbox.wait()
            is_missing = step in self._failed
        if is_missing if self._ranks is None else self._ranks.any(is_missing):
            self._capture(step, here=True)
        self.wait()

    def _lost(self, job: Job, why: str) -> None:
        self._failed.add(job.step)
        self._skipped(job.step, why)

    def _skipped(self, step: int, why: str) -> None:
        self._progress.tell(skipped=step, why=why)
        say(f"step {step} is not saved: {why}")

    def _name(self, step: int) -> str:
        return f"step-{step:09d}.pt" if self._ranks is None else f"step-{step:09d}"

    def _tell_step(self, step: int, loss: Any) -> None:
        number = None if loss is None else float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
        self._progress.tell(step=step, **control.loss_words(number), total=self.total_steps, t=time.time())

    # ----------------------------------------------------------------------------------------------------- restoring

    def _found(self) -> list[Path]:
        """Saves, newest first, once nobody writes here any more; what was left half written is deleted."""
        names: list[str] = []
        if self._ranks is None or self._ranks.is_first:
            _wait_for_former(self.folder)
            names = [path.name for path in writer.saves(self.folder)]
        if self._ranks is not None:
            names = self._ranks.first(names)
        return [self.folder / name for name in names]

    def _damage(self, path: Path) -> str:
        if path.name.endswith(".pt"):
            why = archive.damage(path)
            return why if self._ranks is None or not self._ranks.any(bool(why)) else why or "another rank can't read it"
        if self._ranks is not None:
            return self._ranks.damage(path)
        from vl_agent.torch import ranks

        try:
            return ranks.damage(path)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the one before is used
            return f"{type(error).__name__}: {error}"

    def _load(self, path: Path) -> Mapping[str, Any] | None:
        """Put a checkpoint's content into the parts. None: it is of another format. Raises ``KeyError`` for one of
        another script."""
        if not path.name.endswith(".pt"):
            from vl_agent.torch import ranks

            return ranks.load(path, self._parts) if self._ranks is None else self._ranks.load(path, self._parts)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            return None
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            return None
        missing = [name for name in self._parts if name not in state["parts"]]
        if missing:
            raise KeyError(f"{path}: has no {missing[0]!r}: it was saved by another script.")
        if self._ranks is not None:
            return self._ranks.load_whole(self._parts, state)
        for name, part in self._parts.items():
            part.load_state_dict(state["parts"][name])
        return state

    def _resume(self, state: Mapping[str, Any]) -> None:
        before, now = int(state.get("ranks", 1)), 1 if self._ranks is None else self._ranks.size
        if before != now and self._is_first:
            say(
                f"saved by {before} rank{'s' * (before > 1)}, {now} here: the state is the same, but not the order of"
                " sums and the random streams, so the numbers will differ in their last digits"
            )
        rng = state["rng"] if state.get("is_own", True) else get_rng()  # no two ranks draw the same
        if self._data is not None and state["data"] is not None:
            self._data.restore(state["data"], (before, now))
            self._rng = rng  # set after the iterator is made: making it draws from the RNG
        else:
            set_rng(rng)


def _ranks() -> Ranks | None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from vl_agent.torch.ranks import Ranks

        return Ranks()
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise RuntimeError(
            f"Checkpointer: this is one of {os.environ['WORLD_SIZE']} ranks: call"
            " torch.distributed.init_process_group() before it is made."
        )
    return None


def _wait_for_former(folder: Path) -> None:
    """A killed training's writer may be at the newest save still."""
    deadline = time.monotonic() + _FORMER_S
    said = False
    while time.monotonic() < deadline:
        with writer.writing(folder, alone=True) as lock:
            if lock is not None:
                writer.clear(folder)
                return
        if not said:
            say(f"{folder}: another process is writing a save here, it is waited for")
            said = True
        time.sleep(0.05)
    say(f"{folder}: another process writes here still: are there two trainings?")


def _prove(state: Mapping[str, Any]) -> None:
    """Write and read ``state`` in memory, with tensors of no elements in the place of its own."""
    file = io.BytesIO()
    try:
        torch.save(_hollow(state), file)
        file.seek(0)
        torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TypeError(
            f"this training's state can't be restored safely: {error} Keep to tensors, numbers, strings, lists and"
            " dicts in state_dict()."
        ) from error


def _hollow(found: Any) -> Any:
    if type(found) in (torch.Tensor, nn.Parameter):
        return torch.empty(0, dtype=found.dtype)
    if isinstance(found, dict):
        hollow = copy.copy(found)  # of its own kind, with what hangs on it
        hollow.update({key: _hollow(value) for key, value in found.items()})
        return hollow
    if type(found) in (list, tuple):
        return type(found)(_hollow(value) for value in found)
    return found
