"""Staying with a run until it ends: one line for each change that matters."""

from __future__ import annotations

import asyncio
import sys

from vl_agent import head
from vl_agent.protocol import ENDED_STATES, Head
from vl_agent.store import Store, Unanswered

from vl_tui import failure
from vl_tui.config import FleetConfig
from vl_tui.controller import process
from vl_tui.domain.safe import clean

POLL_S = 1.0
ENSURE_EVERY = 10
"""Polls after which the controller is seen to again: while somebody waits, its death must not end the run's luck."""


async def until_ended(fleet: FleetConfig, store: Store, run: str) -> int:
    """Print what happens to ``run`` until it ends; return its exit code."""
    before = ""
    polls = 0
    while True:
        try:
            found, _ = await head.read(store, run)
        except Unanswered:  # the run goes on without us; so do we
            line = f"{run}: the store does not answer; waiting"
        else:
            line = describe(run, found)
            if found.state in ENDED_STATES:
                print(line, file=sys.stderr)
                return failure.FINISHED if found.state == "finished" else failure.RUN_FAILED
        if line != before:
            print(line, file=sys.stderr)
            before = line
        polls += 1
        if polls % ENSURE_EVERY == 0:
            await asyncio.to_thread(process.ensure_controller, fleet.path)
        await asyncio.sleep(POLL_S)


def describe(run: str, found: Head) -> str:
    """A head in one line."""
    parts = [f"{run}: {found.state}"]
    if found.attempt:
        parts.append(f"attempt {found.attempt}")
    if found.checkpoint:
        parts.append(f"durable to step {found.checkpoint.step}")
    if found.detail:
        parts.append(clean(found.detail))
    return ", ".join(parts)
