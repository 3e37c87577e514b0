"""``vl-tui stop``: leave the wish for the controller, and wait until it is done."""

from __future__ import annotations

import argparse

from vl_agent.protocol import ENDED_STATES
from vl_agent.store import Store

from vl_tui.commands import wait, wish
from vl_tui.commands.opened import head_of, with_store
from vl_tui.config import FleetConfig, load_fleet
from vl_tui.failure import FINISHED

PATIENCE_S = 420.0
"""The controller gives a box some minutes to save first."""


def run(args: argparse.Namespace) -> int:
    fleet = load_fleet(args.fleet)
    return with_store(fleet, lambda store: _stop(fleet, store, args.name))


async def _stop(fleet: FleetConfig, store: Store, run_name: str) -> int:
    found = await head_of(store, run_name)
    if found.state in ENDED_STATES:
        print(f"{wait.describe(run_name, found)}: nothing to stop.")
        return FINISHED
    answer = await wish.leave(
        fleet, store, run_name, found.epoch, "stop", patience_s=PATIENCE_S, waits_for="stopping; its box saves first"
    )
    now = found if answer is None else await head_of(store, run_name)
    return wish.code(answer, lambda words: f"{wait.describe(run_name, now)}. {words}")
