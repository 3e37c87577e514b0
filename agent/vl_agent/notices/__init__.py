"""Where notices come from: one file a source. A notice is told once, with the moment the box goes, where known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Notice:
    source: str
    deadline: float | None
    """Unix seconds by this box's clock."""
    detail: str


Heard = Callable[[Notice], None]
