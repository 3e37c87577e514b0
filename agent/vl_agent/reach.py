"""Whether the store can be reached: who asks it says so, and the run is told to be at risk while any can't."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vl_agent.status import Status


class Reach:
    """Collects failures by who met them. ``at_risk`` and ``not_at_risk`` are told once each time it turns."""

    def __init__(self, status: Status, tell: Callable[..., Any]) -> None:
        self._status, self._tell = status, tell
        self._failing: dict[str, str] = {}

    def failed(self, who: str, words: str) -> None:
        if not self._failing:
            self._tell("at_risk", why=words)
        self._failing[who] = words
        self._status.store_error = words

    def works(self, who: str) -> None:
        if self._failing.pop(who, None) is None:
            return
        self._status.store_error = next(iter(self._failing.values()), "")
        if not self._failing:
            self._tell("not_at_risk")
