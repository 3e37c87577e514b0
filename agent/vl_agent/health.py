"""What is wrong with this box, or soon will be: disk, memory, clock, GPUs; and whether saves become durable at all.

The judgements are pure; ``Health`` says each once when it turns. Sizes in bytes, times in seconds.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from vl_agent.metrics.host import Host

Severity = Literal["ok", "warn", "fatal"]
What = Literal["disk", "memory", "clock", "gpu"]

FULL_IN_S = 1800.0
"""A disk that will be full within this is said."""
LITTLE_MEMORY = 0.03
SKEW_S = 30.0
"""A clock that is off by more is said."""
REFUSED_SKEW_S = 300.0
"""One that is off by more puts the run at risk: stores refuse what is signed fifteen minutes off."""
LATE_S = 900.0
LATE = 3
"""So many usual intervals without a durable checkpoint, and at least ``LATE_S``, are long."""
_SPARE = 1.05
"""A save is taken to need so many times the size of the one before."""
_GIB = 1 << 30


@dataclass(frozen=True)
class Trouble:
    """``subject``: which of several (a GPU); with ``what`` it names the trouble."""

    what: What
    severity: Severity
    words: str
    subject: str = ""


class Health:
    """Tells ``health`` events: a trouble once when it begins or grows worse, and once when it is over."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        self._open: dict[tuple[What, str], Trouble] = {}

    def now(self, what: What, found: Iterable[Trouble]) -> None:
        """``found``: all the troubles of this kind there are."""
        here: dict[tuple[What, str], Trouble] = {(one.what, one.subject): one for one in found}
        for key, one in here.items():
            before = self._open.get(key)
            if before is None or before.severity != one.severity:
                self._say(one)
            self._open[key] = one
        for key in [key for key in self._open if key[0] == what and key not in here]:
            over = self._open.pop(key)
            self._say(Trouble(what, "ok", f"no longer: {over.words}", over.subject))

    def is_open(self, what: What, subject: str = "") -> bool:
        return (what, subject) in self._open

    def _say(self, one: Trouble) -> None:
        subject = {"subject": one.subject} if one.subject else {}
        self._tell("health", what=one.what, severity=one.severity, words=one.words, **subject)


# -- judgements ------------------------------------------------------------------------------------------------------


def too_small(host: Host, save: int | None, folder: str) -> str:
    """Why the next save does not fit on the checkpoint folder's disk, in words; empty: it fits, or nobody knows."""
    if host.disk_free is None or save is None or host.disk_free >= save * _SPARE:
        return ""
    return f"the disk of {folder} has {size(host.disk_free)} left, the next save needs {size(save)}"


def of_disk(host: Host, folder: str, *, said: bool) -> list[Trouble]:
    """``said``: it was in trouble at the last look; then it stays so until there is twice the time left."""
    if host.disk_free is None or not host.disk_rate or host.disk_rate <= 0:
        return []
    left_s = host.disk_free / host.disk_rate
    if left_s > FULL_IN_S * (2 if said else 1):
        return []
    words = f"the disk of {folder} will be full in {span(left_s)}: {size(host.disk_free)} left,"
    return [Trouble("disk", "warn", f"{words} {size(host.disk_rate * 60)} less each minute")]


def of_memory(host: Host, *, said: bool) -> list[Trouble]:
    """The kernel kills the training when none is left."""
    if host.memory is None or not host.memory_most:
        return []
    left = host.memory_most - host.memory
    if left > host.memory_most * LITTLE_MEMORY * (2 if said else 1):
        return []
    return [Trouble("memory", "warn", f"memory: {size(max(0, left))} of {size(host.memory_most)} are left")]


def skew(put_began: float, put_ended: float, modified: float) -> float:
    """Seconds by which the store's clock is ahead of this box's, at least: an object that was being written here
    between two moments bears a time of the store's, in whole seconds."""
    if modified > put_ended:
        return modified - put_ended
    return min(0.0, modified + 1.0 - put_began)


def of_clock(ahead_s: float) -> list[Trouble]:
    if abs(ahead_s) <= SKEW_S:
        return []
    way = "behind" if ahead_s > 0 else "ahead of"
    return [Trouble("clock", "warn", f"this box's clock is {span(abs(ahead_s))} {way} the store's")]


class Durables:
    """When checkpoints became durable, by one monotonic clock; what is long without one."""

    def __init__(self, now: float, every_s: float | None) -> None:
        """``every_s``: the person's cadence."""
        self._last, self._every_s = now, every_s
        self._intervals: deque[float] = deque(maxlen=20)
        self.any = False

    def durable(self, now: float) -> None:
        if self.any:
            self._intervals.append(now - self._last)
        self._last, self.any = now, True

    def late(self, now: float) -> str:
        """Why that is long, in words; empty: it is not."""
        usual = statistics.median(self._intervals) if self._intervals else 0.0
        since = now - self._last
        if since <= max(LATE_S, LATE * max(usual, self._every_s or 0.0)):
            return ""
        if not self.any:
            return f"no checkpoint has become durable in {span(since)} of training"
        often = f", usually every {span(usual)}" if usual else ""
        return f"no checkpoint has become durable for {span(since)}{often}"


def size(number: float) -> str:
    for unit, least in (("GiB", _GIB), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= least:
            return f"{number / least:.1f} {unit}"
    return f"{number:.0f} B"


def span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
