"""What puts this run at risk: reasons by name, who met them, and since when. The one place that says so.

A run at risk trains but can't become durable, or is about to be in that case. Its beat carries the words and their age,
its journal says when it began and ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from vl_agent.status import Status
from vl_agent.store import Denied

Reason = Literal["store", "credentials", "disk", "checkpoint", "clock", "hang"]
# store        it can't be reached
# credentials  they are refused, or have ended
# disk         the next save does not fit on it
# checkpoint   none has become durable for long
# clock        this box's is so far off that stores refuse what it signs
# hang         no step for far longer than usual


class Reach:
    """``at_risk`` is told once for each reason that comes up, ``not_at_risk`` once none is left."""

    def __init__(
        self, status: Status, tell: Callable[..., Any], monotonic: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self._status, self._tell, self._monotonic = status, tell, monotonic
        self._risks: dict[str, tuple[Reason, str]] = {}
        self._said: set[Reason] = set()

    def failed(self, who: str, error: Exception | str) -> None:
        """``who`` asked the store and got no answer, or a no."""
        self._add(who, "credentials" if isinstance(error, Denied) else "store", str(error))

    def works(self, who: str) -> None:
        """The store answered ``who``."""
        self._remove(who)

    def risk(self, reason: Reason, words: str) -> None:
        """Anything but the store's answers."""
        self._add(f"risk: {reason}", reason, words)

    def no_risk(self, reason: Reason) -> None:
        self._remove(f"risk: {reason}")

    def _add(self, who: str, reason: Reason, words: str) -> None:
        if not self._risks:
            self._status.at_risk_since = self._monotonic()
        self._risks[who] = reason, words
        self._show()
        if reason not in self._said:
            self._said.add(reason)
            self._tell("at_risk", reason=reason, why=words)

    def _remove(self, who: str) -> None:
        if self._risks.pop(who, None) is None:
            return
        self._show()
        if not self._risks:
            since = self._status.at_risk_since
            self._said.clear()
            self._status.at_risk_since = None
            self._tell("not_at_risk", after_s=round(self._monotonic() - (since or 0.0), 1))

    def _show(self) -> None:
        by_reason = dict(self._risks.values())
        self._status.at_risk = "; ".join(by_reason.values())
        unreached = [words for reason, words in by_reason.items() if reason in ("store", "credentials")]
        self._status.store_error = unreached[-1] if unreached else ""
