"""``vl-tui rollback``: go back to a kept checkpoint; the attempt that trains now is fenced."""

from __future__ import annotations

import argparse

from vl_agent.store import Store

from vl_tui.commands import wait, wish
from vl_tui.commands.opened import head_of, with_store
from vl_tui.config import FleetConfig, load_fleet
from vl_tui.failure import Refused

PATIENCE_S = 60.0


def run(args: argparse.Namespace) -> int:
    fleet = load_fleet(args.fleet)
    return with_store(fleet, lambda store: _roll_back(fleet, store, args.name, args.step))


async def _roll_back(fleet: FleetConfig, store: Store, run_name: str, step: int) -> int:
    found = await head_of(store, run_name)
    kept = sorted({entry.step for entry in found.kept})
    if step not in kept:
        words = f"it keeps {', '.join(map(str, kept))}" if kept else "it keeps none yet"
        raise Refused(f"{run_name}: no kept checkpoint has step {step}: {words}.")
    answer = await wish.leave(
        fleet, store, run_name, found.epoch, "rollback", step=step, patience_s=PATIENCE_S,
        waits_for="waits for the controller",
    )  # fmt: skip
    now = found if answer is None else await head_of(store, run_name)
    return wish.code(answer, lambda words: f"{wait.describe(run_name, now)}. {words}")
