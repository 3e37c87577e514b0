"""``vl-tui`` without a command: the app."""

from __future__ import annotations

import argparse

from vl_tui import app
from vl_tui.config import load_fleet


def run(args: argparse.Namespace) -> int:
    return app.main(load_fleet(args.fleet))
