"""``vl-tui controller``: keep a fleet's runs moving, in the foreground, as under systemd."""

from __future__ import annotations

import argparse

from vl_tui.config import load_fleet
from vl_tui.controller import process


def run(args: argparse.Namespace) -> int:
    return process.main(load_fleet(args.fleet), None)
