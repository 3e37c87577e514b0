"""``vl-tui pin``: keep a durable checkpoint until a person says otherwise."""

from __future__ import annotations

import argparse

from vl_agent import head as heads
from vl_agent import kept
from vl_agent.store import Store

from vl_tui.commands.opened import head_of, with_store
from vl_tui.config import load_fleet
from vl_tui.failure import FINISHED


def run(args: argparse.Namespace) -> int:
    """A pin fences nobody and needs no controller: it is one swap of the head. Raises ``heads.Refused``."""
    fleet = load_fleet(args.fleet)
    return with_store(fleet, lambda store: _pin(store, args.name, args.step, pinned=not args.off))


async def _pin(store: Store, run_name: str, step: int, *, pinned: bool) -> int:
    await head_of(store, run_name)
    await heads.pin(store, run_name, step=step, pinned=pinned)
    print(kept.pin_words(run_name, step, pinned=pinned))
    return FINISHED
