"""What the helper says to whoever reads the training's log."""

from __future__ import annotations

import sys


def say(words: str) -> None:
    print(f"vl: {words}", file=sys.stderr, flush=True)
