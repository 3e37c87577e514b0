"""What is wrong with a GPU, from one sample to the next. Pure but for asking whether a process is alive.

What was there before the training began is not its affair; what is held for long is more than what is held for a
moment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from vl_agent.metrics.gpu import FATAL_XID, HELD_DOWN, OWN_XID, Gpu, Sampled

SLOW_S = 60.0
"""A clock that is held down for longer is said."""
_UNAVAILABLE = {0x2: "a double-bit memory error", 0x4000: "it is unavailable", 0x8000: "it needs a reset"}


@dataclass(frozen=True)
class Fault:
    """Something wrong with one GPU. ``fatal``: what runs on it can't go on, or not rightly."""

    uuid: str
    kind: str
    """lost | rows | reset | memory | slow | dead PID | event NUMBER"""
    fatal: bool
    words: str


def exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


@dataclass
class Faults:
    """``of`` every sample in turn. ``alive``: whether a process of this number is there."""

    alive: Callable[[int], bool] = exists
    _held_since: dict[str, float] = field(default_factory=dict)
    _uncorrected: dict[str, int] = field(default_factory=dict)
    _dead: dict[tuple[str, int], int] = field(default_factory=dict)

    def of(self, found: Sampled) -> list[Fault]:
        """All there are by now."""
        faults = [fault for gpu in found.gpus for fault in self._of_one(gpu, found.at)]
        return faults + [fault for uuid, number in found.events if (fault := of_event(uuid, number)) is not None]

    def _of_one(self, gpu: Gpu, at: float) -> Iterator[Fault]:
        if gpu.lost:
            yield Fault(gpu.uuid, "lost", True, gpu.lost)
            return
        if gpu.rows_failed:
            yield Fault(gpu.uuid, "rows", False, "its memory has more broken rows than it can replace: a bad board")
        elif gpu.reset_needed:
            yield Fault(gpu.uuid, "reset", False, "a broken memory row is replaced only by a reset")
        if gpu.uncorrected is not None:
            more = gpu.uncorrected - self._uncorrected.setdefault(gpu.uuid, gpu.uncorrected)
            if more > 0:
                yield Fault(gpu.uuid, "memory", True, f"{more} memory errors since the start could not be corrected")
        if not gpu.held_down:
            self._held_since.pop(gpu.uuid, None)
        elif at - self._held_since.setdefault(gpu.uuid, at) > SLOW_S:
            why = ", ".join(words for bit, words in HELD_DOWN.items() if gpu.held_down & bit)
            yield Fault(gpu.uuid, "slow", False, f"its clock is held down for more than {SLOW_S:.0f} s: {why}")
        yield from self._of_dead(gpu)

    def _of_dead(self, gpu: Gpu) -> Iterator[Fault]:
        """Memory that a dead process still holds: seen three times, for one that is just ending holds it for a moment.
        Where no process is known here at all, the numbers are of another container's."""
        dead = [pid for pid in gpu.pids if not self.alive(pid)]
        for key in [key for key in self._dead if key[0] == gpu.uuid and key[1] not in dead]:
            del self._dead[key]
        for pid in dead:
            times = self._dead[gpu.uuid, pid] = self._dead.get((gpu.uuid, pid), 0) + 1
            if times > 2 and len(dead) < len(gpu.pids):
                yield Fault(gpu.uuid, f"dead {pid}", False, f"memory on it is held by process {pid}, which is dead")


def of_event(uuid: str, number: int) -> Fault | None:
    """An XID, or another event as its negative type; None: it is no fault of the machine."""
    if number in FATAL_XID:
        return Fault(uuid, f"event {number}", True, f"XID {number}: {FATAL_XID[number]}")
    if number <= 0:
        words = _UNAVAILABLE.get(-number)
        return Fault(uuid, f"event {number}", True, words) if words else None
    return None if number in OWN_XID else Fault(uuid, f"event {number}", False, f"XID {number}")
