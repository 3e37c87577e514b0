"""A training for tests: makes some steps and then what it is told to. Run as a process of its own."""

import faulthandler
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

from vl_agent import control

STEPS = 30


def stuck_asleep() -> None:
    time.sleep(600)


def stuck_in_c() -> None:
    """Holds the interpreter's lock for ever."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def deeper(levels: int) -> None:
    if levels:
        deeper(levels - 1)
    else:
        time.sleep(0.02)


def works_silently() -> None:
    while not Path("go").exists():
        deeper(random.randrange(60))


def saves_slowly() -> None:
    with open("ckpt/.part", "wb", buffering=0) as file:
        while not Path("go").exists():
            file.write(b"x" * 4096)
            time.sleep(0.05)


def evaluates() -> None:
    for n in range(10**6):
        sys.stderr.write(f"\rValidation: 1%|#  | {n}/1000000 [00:00<00:00, 99.0it/s]")
        sys.stderr.flush()
        if Path("go").exists():
            return
        time.sleep(0.02)


def main() -> None:
    what, *options = sys.argv[1:]
    if "dumps" in options:
        faulthandler.register(signal.SIGUSR1)
    told = control.Progress(os.environ["VL_CONTROL"]) if "silent" not in options else None
    resumed = 20 if Path("again").exists() else 0
    for step in range(resumed + 1, STEPS + 1):
        if told:
            told.tell(step=step, loss=1 / step, total=2 * STEPS)
        print("step", step, "of secret-token", flush=True)
        time.sleep(0.02)
    if what == "once" and not Path("again").exists():
        Path("again").touch()
        stuck_asleep()
    if what not in ("once", "nothing"):
        globals()[what]()
    for step in range(STEPS + 1, 2 * STEPS + 1):
        if told:
            told.tell(step=step, loss=1 / step, total=2 * STEPS)
        time.sleep(0.02)


if __name__ == "__main__":
    main()
