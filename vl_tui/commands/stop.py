"""``vl-tui stop``: leave the wish for the controller, and wait until it is done."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import secrets
import socket
import sys
import time

from vl_agent.protocol import ENDED_STATES, Intent, IntentDone
from vl_agent.store import Store, Unanswered

from vl_tui.commands import wait
from vl_tui.commands.opened import head_of, with_store
from vl_tui.config import FleetConfig, load_fleet
from vl_tui.controller import process
from vl_tui.domain.safe import clean
from vl_tui.failure import FINISHED, MISTAKE, UNREACHABLE
from vl_tui.store import intents

PATIENCE_S = 420.0
"""The controller gives a box some minutes to save first. The wish stays in the store: nothing is lost by leaving."""
SAY_EVERY_S = 5.0


def run(args: argparse.Namespace) -> int:
    fleet = load_fleet(args.fleet)
    return with_store(fleet, lambda store: _stop(fleet, store, args.name))


async def _stop(fleet: FleetConfig, store: Store, run_name: str) -> int:
    found = await head_of(store, run_name)
    if found.state in ENDED_STATES:
        print(f"{wait.describe(run_name, found)}: nothing to stop.")
        return FINISHED
    intent = Intent(
        # Sorts by time, so that wishes are answered in the order in which they were made.
        id=f"{time.time_ns():020d}-{secrets.token_hex(4)}",
        run=run_name,
        epoch=found.epoch,
        action="stop",
        by=f"{getpass.getuser()}@{socket.gethostname()}",
        at=time.time(),
    )
    await intents.write(store, intent)
    await asyncio.to_thread(process.ensure_controller, fleet.path)
    process.wake(fleet.fleet)
    answer = await _answer(store, intent)
    if answer is None:
        print(f"{run_name}: no answer in {PATIENCE_S:.0f} s. The wish stays in the store, and whichever controller runs"
              " next acts on it; `vl-tui ls` shows whether it did.", file=sys.stderr)  # fmt: skip
        return UNREACHABLE
    print(f"{wait.describe(run_name, await head_of(store, run_name))}. {clean(answer.detail)}")
    return FINISHED if answer.result == "done" else MISTAKE


async def _answer(store: Store, intent: Intent) -> IntentDone | None:
    """Wait for the answer, saying what is waited for."""
    began = time.monotonic()
    said = began
    while (waited := time.monotonic() - began) < PATIENCE_S:
        try:
            answer = await intents.answered(store, intent.id)
        except Unanswered:
            answer = None
        if answer is not None:
            return answer
        if time.monotonic() - said >= SAY_EVERY_S:
            said = time.monotonic()
            print(f"{intent.run}: stopping; its box saves first ({waited:.0f} s)", file=sys.stderr)
        await asyncio.sleep(0.5)
    return None
