"""``python -m vl_tui.controller``: how ``ensure_controller`` starts one. A person runs ``vl-tui controller``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vl_tui.controller.process import detached

parser = argparse.ArgumentParser(prog="python -m vl_tui.controller")
parser.add_argument("--fleet", type=Path, required=True)
parser.add_argument("--leash-fd", type=int)
parser.add_argument("--ready-fd", type=int)
options = parser.parse_args()
sys.exit(detached(options.fleet, options.leash_fd, options.ready_fd))
