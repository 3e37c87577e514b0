"""Time as a parameter: what waits or measures here takes its clock from outside."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def wall(self) -> float:
        """Unix seconds; for records and for showing, never for a rule between two machines."""
        ...

    def mono(self) -> float:
        """Seconds that only grow, a suspended machine's sleep included."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def wall(self) -> float:
        return time.time()

    def mono(self) -> float:
        # On Linux time.monotonic() stands still while the machine sleeps; elsewhere there is no CLOCK_BOOTTIME.
        boot = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if boot is None else time.clock_gettime(boot)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
