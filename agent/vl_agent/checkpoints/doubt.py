"""Which checkpoints hold a training that has gone wrong: the newest loss told up to their step is no finite number.

A finite loss at a later step proves the weights before it good again (a scaler that skipped a step), so only the newest
counts. A loss that nobody knows says nothing.
"""

from __future__ import annotations

from collections import deque


class Losses:
    """Whether losses were finite, as they were told; only the changes are remembered."""

    def __init__(self) -> None:
        self._changes: deque[tuple[int, str]] = deque(maxlen=10_000)

    def told(self, step: int, nonfinite: str) -> None:
        """``nonfinite``: nan, inf or -inf; empty for a finite loss."""
        if nonfinite != (self._changes[-1][1] if self._changes else ""):
            self._changes.append((step, nonfinite))

    def doubt(self, step: int) -> str:
        """Why a checkpoint of this step is not to be resumed from, for a person, or nothing."""
        for since, nonfinite in reversed(self._changes):
            if since <= step:
                return f"the loss is {nonfinite} since step {since}" if nonfinite else ""
        return ""
