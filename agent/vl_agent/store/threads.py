"""Blocking work that must not outlive who asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(act: Callable[[], T], *, cut: Callable[[], None] | None = None, on: Executor | None = None) -> T:
    """As ``asyncio.to_thread``, but cancelled it waits until ``act`` has returned: a thread that still writes to a file
    descriptor which was closed meanwhile would write into another file. ``cut`` tells ``act`` to return soon."""
    work = asyncio.get_running_loop().run_in_executor(on, act)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if cut is not None:
            cut()
        while not work.done():
            try:
                await asyncio.wait({work})
            except asyncio.CancelledError:  # asked again: the answer is the same
                continue
        if not work.cancelled():
            work.exception()
        raise
