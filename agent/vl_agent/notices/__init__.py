"""Where notices come from: one file a source. A source tells its ``Ear``; what follows is not its business.

How long a notice leaves, by source, is in ``WINDOW_S``: a source that names the moment itself goes before it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

WINDOW_S: Mapping[str, float] = {
    "aws": 120.0,
    "gcp": 30.0,
    "azure": 30.0,
    "kubernetes": 30.0,
    "gke": 15.0,
    "nebius": 60.0,
    "slurm": 30.0,
    "runpod": 5.0,
    "vast": 0.0,
}
"""Seconds from the notice to the end of the box, where the provider says so and the notice does not. GKE's spot nodes
leave 15 whatever the pod asks; Slurm's is KillWait as it comes. How long any other source leaves nobody knows."""

DEAF_S = 60.0
"""A source that answers nothing usable for so long is told as trouble, once."""


@dataclass(frozen=True)
class Notice:
    """The box will be taken."""

    source: str
    deadline: float | None
    """Unix seconds by this box's clock; None: nobody said."""
    detail: str


class Ear(Protocol):
    """Who wants to hear. Nothing here blocks or raises."""

    def notice(self, notice: Notice) -> None:
        """The box will be taken. May come more than once."""

    def withdrawn(self, source: str, detail: str) -> None:
        """What ``source`` gave notice of will not happen."""

    def advice(self, source: str, detail: str) -> None:
        """A softer word: it may be taken, or will stand still for some seconds. Nothing is ended for it."""

    def trouble(self, source: str, words: str) -> None:
        """This source can't be heard: a notice may be missed."""


class Hearing:
    """Whether a source answers; a long silence is told once."""

    def __init__(self, source: str, ear: Ear) -> None:
        self._source, self._ear = source, ear
        self._since: float | None = None
        self._told = False

    def works(self) -> None:
        self._since, self._told = None, False

    def failed(self, why: str) -> None:
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if not self._told and now - self._since >= DEAF_S:
            self._told = True
            self._ear.trouble(self._source, why)


def jittered(seconds: float) -> float:
    """``seconds``, more or less: boxes that began together shall not ask together for ever."""
    return random.uniform(0.8, 1.2) * seconds
