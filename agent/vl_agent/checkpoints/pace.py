"""How fast an upload may go beside a training: as slowly as it can afford, at once when a notice came.

Two limits, and the faster of the two holds. CPU: hashing and sending take at most ``SHARE`` of the machine's cores, so
that a training that keeps all of them busy loses no more than that. Spread: an upload is through before the next save
is due, whatever it takes, or durability would fall behind.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

SHARE = 0.01
"""Of all cores: the most that an upload takes from a training that uses every one."""
SPREAD = 0.7
"""Of the time between two saves: an upload that is slower than its CPU limit would have it gets that much."""
FREE = 16 << 20
"""Bytes of a save that go at once: a small one is not worth waiting for."""
NICE = 10
_CPU_PER_BYTE = 1.0 / (1 << 30)
"""A first guess, until it is measured."""


class Pace:
    """One upload at a time. ``cpu`` is the CPU time of this process in seconds."""

    def __init__(
        self, cores: int = 0, *, monotonic: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:  # fmt: skip
        self._cores = cores or len(os.sched_getaffinity(0))
        self._monotonic, self._cpu = monotonic, cpu
        self._hurried = asyncio.Event()
        self._cost = _CPU_PER_BYTE
        self._began = monotonic()
        self._cpu_before = cpu()
        self._interval_s = math.inf
        self._total = self._taken = 0

    @property
    def in_a_hurry(self) -> bool:
        return self._hurried.is_set()

    def begin(self, total: int) -> None:
        """A save of ``total`` bytes is uploaded from now on; the next is due as long after it as it came after the one
        before. The first knows of none."""
        if self._taken > FREE:
            self._cost = self._spent() / self._taken
        now = self._monotonic()
        self._interval_s = now - self._began if self._total else math.inf
        self._began, self._cpu_before = now, self._cpu()
        self._total, self._taken = max(total, 1), 0

    def hurry(self) -> None:
        """Unpaced from now on, also who waits already."""
        self._hurried.set()

    def wait_s(self) -> float:
        """Seconds until the next bytes may go."""
        if self.in_a_hurry or self._taken < FREE:
            return 0.0
        by_cpu = self._spent() / (SHARE * self._cores)
        by_spread = SPREAD * self._interval_s * self._taken / self._total
        return max(0.0, self._began + min(by_cpu, by_spread) - self._monotonic())

    async def take(self, size: int) -> None:
        """Return when ``size`` more bytes may be read and sent."""
        delay = self.wait_s()
        if delay:
            hurried = asyncio.ensure_future(self._hurried.wait())
            try:
                await asyncio.wait({hurried}, timeout=delay)
            finally:
                hurried.cancel()
        self._taken += size

    def _spent(self) -> float:
        """CPU seconds of what was taken; what is on its way has not cost its own yet."""
        return max(self._cpu() - self._cpu_before, self._cost * self._taken)


def step_back(urgent: bool = False) -> None:
    """Let every thread of this process but the main one (which starts the training) give way to others; ``urgent``: no
    longer, where the system allows it. Threads, because a process can't go back, and a child would inherit it."""
    for name in os.listdir("/proc/self/task"):
        if int(name) != os.getpid():
            with suppress(OSError):  # it has ended, or may not go back
                os.setpriority(os.PRIO_PROCESS, int(name), 0 if urgent else NICE)


def step_back_here() -> None:
    """As ``step_back``, for the calling thread."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
