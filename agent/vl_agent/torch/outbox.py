"""The trainer's side of the writer (``vl_agent.writer``): two buffers, one process, and what became of each save.

A save that was handed over is the writer's: it is finished also when the trainer is killed. A writer that dies costs
the saves it had; the next one gets a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vl_agent import control, writer
from vl_agent.torch.capture import Buffer, Copier, Pickled, Places, content, lay_out, memory_of, room
from vl_agent.writer import Job

_MOST_THREADS = 4
_MOST_DEATHS = 3
"""Writers that die one after the other without having written anything: then the trainer writes by itself."""
_START = "import sys; sys.path.insert(0, sys.argv[1]); from vl_agent import writer; writer.main()"


class _Slot:
    """One buffer and the save that is in it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.buffer: Buffer | None = None
        self.is_refused = False
        self.job: Job | None = None


class Outbox:
    """``say`` is told what a person should know; ``lost`` is called with each save that will not come, and why."""

    def __init__(
        self, folder: Path, progress: control.Progress, say: Callable[[str], None], lost: Callable[[Job, str], None]
    ) -> None:
        self._folder, self._progress, self._say, self._lost = folder, progress, say, lost
        self._slots = [_Slot(0), _Slot(1)]
        self._copier = Copier(_threads())
        self._link: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._warming: threading.Thread | None = None
        self._deaths = 0
        self._pid = os.getpid()
        _living.add(self)
        atexit.register(self.close)

    @property
    def has_room(self) -> bool:
        """Whether ``save`` would not wait for a writer. Asks, does not wait."""
        while self._hear(wait=False):
            pass
        usable = [slot for slot in self._slots if not slot.is_refused]
        return not usable or self._is_broken or any(slot.job is None for slot in usable)

    def prepare(self, archives: Sequence[Pickled]) -> None:
        """Start the writer, and make the buffers ready while the training goes on."""
        _, _, need = lay_out(archives)
        self._start()
        for slot in self._slots:
            self._fit(slot, need + need // 64)
        self._warming = threading.Thread(target=self._warm, name="vl-warm", daemon=True)
        self._warming.start()

    def save(self, job: Job, archives: Sequence[Pickled], metadata: bytes = b"", *, here: bool = False) -> None:
        """Capture and hand over. Without memory or without a writer, or where it is asked for (``here``), it is written
        at once; then it raises ``OSError``. ``metadata``: goes into the job's ``part``."""
        whole = [*archives, Pickled(metadata, ())] if metadata else archives
        places, at, need = lay_out(whole)
        slot = None if here or self._is_broken else self._take(need)
        if slot is None or slot.buffer is None:
            places, found = content(whole)

            def view(at: int, _: int) -> memoryview:
                one = found[at]
                return memory_of(one) if isinstance(one, torch.Tensor) else one

            writer.carry_out(_placed(job, places), view, self._progress.tell)
            return
        slot.buffer.fill(whole, places, self._copier)
        job = replace(_placed(job, places), stall_s=time.monotonic() - job.began)
        body = job.encode()
        slot.buffer.put(at, body)
        self._hand_over(slot, job, at, len(body))

    def wait(self) -> None:
        """Until nothing is under way."""
        while any(slot.job is not None for slot in self._slots):
            self._hear(wait=True)

    def close(self) -> None:
        """Wait for what is under way and let the writer go. May be called twice."""
        atexit.unregister(self.close)
        if os.getpid() != self._pid:  # a fork of the trainer ends
            return
        if self._warming is not None:
            self._warming.join()
        self.wait()
        self._let_go()
        self._copier.close()
        for slot in self._slots:
            if slot.buffer is not None:
                slot.buffer.close()
                slot.buffer = None

    # -------------------------------------------------------------------------------------------------- the buffers

    def _take(self, need: int) -> _Slot | None:
        """A free buffer that is large enough; waits where there is none. None: memory is short."""
        while True:
            free = [slot for slot in self._slots if slot.job is None and not slot.is_refused]
            for slot in sorted(free, key=lambda slot: slot.buffer is None or slot.buffer.size < need):
                if self._fit(slot, need) and slot.buffer is not None:
                    if self._warming is not None:
                        self._warming.join()
                        self._warming = None
                    if not slot.buffer.is_warm:
                        slot.buffer.warm()
                    return slot
            if all(slot.is_refused or slot.job is None for slot in self._slots):
                return None
            self._hear(wait=True)

    def _fit(self, slot: _Slot, need: int) -> bool:
        """Make the slot's buffer large enough. A quarter of the memory that is left stays for the training."""
        if slot.buffer is not None and slot.buffer.size >= need:
            return True
        if slot.buffer is not None:
            slot.buffer.close()
            slot.buffer = None
        others = [other.buffer for other in self._slots if other.buffer is not None]
        promised = sum(buffer.size for buffer in others if not buffer.is_warm)
        left = room()
        try:
            if promised + need > left - left // 4:
                raise MemoryError
            slot.buffer = Buffer(need)
        except (OSError, MemoryError):
            slot.is_refused = True
            how = "one save at a time is written" if others else "each save stops the training until it is written"
            self._say(f"{left >> 20} MiB of memory are left and a copy of the state takes {need >> 20}: {how}")
            return False
        self._introduce(slot)
        return True

    def _warm(self) -> None:
        for slot in self._slots:
            if slot.buffer is not None and not slot.buffer.is_warm:
                slot.buffer.warm()

    # --------------------------------------------------------------------------------------------------- the writer

    @property
    def _is_broken(self) -> bool:
        return self._deaths >= _MOST_DEATHS

    def _start(self) -> None:
        """Start the writer where there is none."""
        if self._link is not None or self._is_broken:
            return
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        site = Path(__file__).resolve().parents[2]
        command = [sys.executable, "-I", "-S", "-c", _START, str(site), str(its.fileno())]
        try:
            with its, writer.writing(self._folder, alone=False) as lock:
                passed = [its.fileno()] if lock is None else [its.fileno(), lock]
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=passed,
                    start_new_session=True, env={**os.environ, writer.MARK: "1"},
                )  # fmt: skip
        except OSError as error:
            ours.close()
            self._deaths = _MOST_DEATHS
            self._say(
                f"no process can be started to write saves ({error}): each stops the training until it is written"
            )
            return
        self._link = ours
        for slot in self._slots:
            self._introduce(slot)

    def _introduce(self, slot: _Slot) -> None:
        """Give the writer the slot's buffer."""
        if self._link is not None and slot.buffer is not None:
            message = json.dumps({"buffer": slot.number, "size": slot.buffer.size}).encode()
            with contextlib.suppress(OSError):  # a dead one is noticed when it is given a save
                socket.send_fds(self._link, [message], [slot.buffer.fd])

    def _hand_over(self, slot: _Slot, job: Job, at: int, length: int) -> None:
        message = json.dumps({"buffer": slot.number, "at": at, "size": length}).encode()
        while not self._is_broken:
            self._start()
            try:
                if self._link is not None:
                    self._link.send(message)
                    slot.job = job
                    return
            except OSError:
                self._died()
        assert slot.buffer is not None
        writer.carry_out(job, slot.buffer.view, self._progress.tell)

    def _hear(self, *, wait: bool) -> bool:
        """Take one answer of the writer. False: there is none."""
        if self._link is None:
            return False
        try:
            answer = self._link.recv(writer.MOST_MESSAGE, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            answer = b""
        if not answer:
            self._died()
            return True
        words = json.loads(answer)
        slot = self._slots[words["buffer"]]
        job, slot.job = slot.job, None
        self._deaths = 0
        if words["error"] and job is not None:
            self._lost(job, str(words["error"]))
        return True

    def _died(self) -> None:
        """The writer is gone: so are its saves, and nothing else."""
        pid = self._process.pid if self._process is not None else 0
        status = self._let_go()
        self._deaths += 1
        for slot in self._slots:
            job, slot.job = slot.job, None
            if job is not None:
                _clean_up(job, pid)
                self._lost(job, f"the process that wrote it ended (status {status})")
        if self._is_broken:
            self._say("the process that writes saves keeps ending: each save stops the training until it is written")

    def _let_go(self) -> int | None:
        """Close the link: the writer ends by itself."""
        if self._link is not None:
            self._link.close()
            self._link = None
        process, self._process = self._process, None
        return process.wait() if process is not None else None

    def _forget(self) -> None:
        """In a fork of the trainer: the writer must see the trainer's end, whoever else lives on."""
        if self._link is not None:
            self._link.close()
            self._link = None
        for slot in self._slots:
            slot.job = None


_living: weakref.WeakSet[Outbox] = weakref.WeakSet()


def _forget_all() -> None:
    for outbox in list(_living):
        outbox._forget()


os.register_at_fork(after_in_child=_forget_all)


def _placed(job: Job, places: Places) -> Job:
    """The job with its content's places; the folder's metadata, if it has them, come last."""
    if job.part is None or job.part.parts is None:
        return replace(job, archives=places)
    return replace(job, archives=places[:-1], part=replace(job.part, metadata=places[-1][0]))


def _threads() -> int:
    """Threads for one rank's copies: the cores that it has for itself, at most four."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    cores = len(os.sched_getaffinity(0)) // max(1, int(ranks) if ranks.isdecimal() else 1)
    return max(1, min(_MOST_THREADS, cores))


def _clean_up(job: Job, pid: int) -> None:
    """What a dead writer left of a save; the others of a folder are told that its part will not come."""
    folder = Path(job.folder)
    with contextlib.suppress(OSError):
        if job.part is None:
            (folder / f".{job.name}.{pid}.tmp").unlink(missing_ok=True)
        else:
            (folder / job.part.temporary / writer.FAILED).touch()
