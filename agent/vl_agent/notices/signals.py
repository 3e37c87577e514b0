"""SIGTERM to the agent: how Kubernetes, RunPod, a system's shutdown and a person's ``kill`` say that it is over."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterable

from vl_agent.notices import Ear, Notice

Window = Callable[[], "float | None"]
"""Seconds that are left when the signal comes, asked then; None: nobody knows."""


def listen(ear: Ear, source: str, numbers: Iterable[signal.Signals], window: Window) -> Callable[[], None]:
    """Tell of each of these signals from now on, on the running loop. Returns what ends it."""
    loop, numbers = asyncio.get_running_loop(), tuple(numbers)

    def heard(number: signal.Signals) -> None:
        left = window()
        ear.notice(Notice(source, None if left is None else time.time() + left, number.name))

    for number in numbers:
        loop.add_signal_handler(number, heard, number)

    def stop() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            for number in numbers:
                loop.remove_signal_handler(number)

    return stop
