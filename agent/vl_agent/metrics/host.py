"""The machine's own figures, from /proc and the control group: processor, memory, disk. Linux; standard library only.

What a machine does not tell is None. In a container the memory that counts is the control group's, not the machine's.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_WINDOW_S = 600.0
"""A disk's rate is taken over so long at most."""
_SPAN_S = 30.0
"""And over so long at least."""


@dataclass(frozen=True)
class Host:
    """Sizes in bytes."""

    cpu: float | None
    """Share of all processors that was busy since the last look, 0 to 1."""
    load: float | None
    """Processes that run or wait, over the last minute."""
    memory: int | None
    """In use."""
    memory_most: int | None
    """All there is, or what the control group may have."""
    disk_free: int | None
    """Of the checkpoint folder's file system."""
    disk_total: int | None
    disk_rate: float | None
    """Bytes a second by which it fills; negative: it empties."""


class HostWatch:
    """``look`` gives the figures now. ``folder``: whose disk is watched (where it is missing, its parents')."""

    def __init__(
        self, folder: Path, root: Path = Path("/"), monotonic: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self._folder, self._root, self._monotonic = folder, root, monotonic
        self._jiffies: tuple[int, int] | None = None
        self._free: deque[tuple[float, int]] = deque(maxlen=1000)

    def look(self) -> Host:
        """Blocks for as long as the disk's file system does: call it in a thread."""
        memory, most = memory_of(self._root)
        free, total = disk_of(self._folder)
        return Host(self._cpu(), self._load(), memory, most, free, total, self._rate(free))

    def _cpu(self) -> float | None:
        found = _words(self._root / "proc/stat")[1:9]
        if not found or not all(word.isdecimal() for word in found):
            return None
        ticks = [int(word) for word in found]
        now = (sum(ticks), sum(ticks) - sum(ticks[3:5]))  # fields four and five are idle and waiting for the disk
        before, self._jiffies = self._jiffies, now
        if before is None or now[0] <= before[0]:
            return None
        return round(max(0.0, (now[1] - before[1]) / (now[0] - before[0])), 3)

    def _load(self) -> float | None:
        try:
            return float(_words(self._root / "proc/loadavg")[0])
        except (IndexError, ValueError):
            return None

    def _rate(self, free: int | None) -> float | None:
        if free is None:
            return None
        now = self._monotonic()
        self._free.append((now, free))
        while now - self._free[0][0] > _WINDOW_S:
            self._free.popleft()
        began, before = self._free[0]
        return (before - free) / (now - began) if now - began >= _SPAN_S else None


def disk_of(folder: Path) -> tuple[int | None, int | None]:
    """Bytes free for who isn't root, and in all, of the file system that ``folder`` is or would be on."""
    for place in (folder, *folder.parents):
        try:
            disk = os.statvfs(place)
        except OSError:
            continue
        return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    return None, None


def memory_of(root: Path = Path("/")) -> tuple[int | None, int | None]:
    """Bytes in use and bytes there are: of the control group with the least left, or of the machine."""
    lines = dict(line.partition(":")[::2] for line in _text(root / "proc/meminfo").splitlines())
    total, available = _kib(lines.get("MemTotal")), _kib(lines.get("MemAvailable"))
    found = [] if total is None or available is None else [(total - available, total)]
    found += [(used, most) for used, most in _groups(root) if total is None or most < total]
    return min(found, key=lambda pair: pair[1] - pair[0]) if found else (None, None)


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Use and limit of every control group of this process that has a limit, its parents too; both versions. Memory
    that only holds files is not in use: the kernel takes it back."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        two = number == "0" and not controllers
        if not two and "memory" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("" if two else "memory")
        most, used = ("memory.max", "memory.current") if two else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        file = "inactive_file" if two else "total_inactive_file"
        here = Path(path.strip("/"))
        for part in [part for part in (here, *here.parents) if ".." not in part.parts]:
            limit, use = _number(base / part / most), _number(base / part / used)
            if limit is None or use is None:
                continue
            stat = dict(line.partition(" ")[::2] for line in _text(base / part / "memory.stat").splitlines())
            yield max(0, use - int(stat.get(file, "0") or 0)), limit


def _kib(words: str | None) -> int | None:
    number = (words or "").split()[:1]
    return int(number[0]) * 1024 if number and number[0].isdecimal() else None


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdecimal() else None


def _words(path: Path) -> list[str]:
    """Of the first line."""
    return (_text(path).splitlines() or [""])[0].split()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
