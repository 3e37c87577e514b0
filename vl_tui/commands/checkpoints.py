"""``vl-tui checkpoints``: the durable checkpoints that a run keeps, newest first."""

from __future__ import annotations

import argparse
import json

from vl_agent import kept

from vl_tui.commands.opened import head_of, with_store
from vl_tui.config import load_fleet
from vl_tui.failure import FINISHED


def run(args: argparse.Namespace) -> int:
    fleet = load_fleet(args.fleet)
    head = with_store(fleet, lambda store: head_of(store, args.name))
    print(json.dumps(kept.document(args.name, head), indent=2) if args.json else "\n".join(kept.table(args.name, head)))
    return FINISHED
