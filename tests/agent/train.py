"""A training without torch: its weights are a chain of hashes, so that a step left out, or done on the wrong state,
shows in the end. Saves by rename, deletes older files, resumes from the newest it finds. Run as a process of its own.
"""

import argparse
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

FOLDER = Path("ckpt")


def weights_after(step: int, weights: str = "") -> str:
    """What the weights are after ``step`` steps."""
    for done in range(step):
        weights = one_step(weights, done + 1)
    return weights


def one_step(weights: str, step: int) -> str:
    return hashlib.sha256(f"{weights} {step}".encode()).hexdigest()


def weights_in(path: Path) -> tuple[int, str]:
    with zipfile.ZipFile(path) as archive:
        step, weights = archive.read("state").decode().split()
    return int(step), weights


def saved() -> list[Path]:
    found = [path for path in FOLDER.iterdir() if path.name.endswith(".pt")]
    return sorted(found, key=lambda path: int(re.findall(r"\d+", path.name)[-1]))


def save(step: int, weights: str, padding: int) -> Path:
    part = FOLDER / f".model_{step:06d}.tmp"
    with zipfile.ZipFile(part, "w") as archive:
        archive.writestr("state", f"{step} {weights}")
        archive.writestr("padding", os.urandom(padding))
    path = FOLDER / f"model_{step:06d}.pt"
    part.rename(path)
    for old in saved()[:-2]:
        old.unlink()
    return path


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--every", type=int, default=5)
    options.add_argument("--pause", type=float, default=0.01)
    options.add_argument("--padding", type=int, default=0, help="random bytes in each save")
    options.add_argument("--wait-at", type=int, default=0, help="at this step wait until a file `go` is there")
    options.add_argument("--helper", action="store_true", help="tell steps and saves, and stop on a notice")
    options.add_argument("--end-at", type=int, default=0)
    options.add_argument("--end", default="exit 1", help="how it ends at that step: `exit N`, `signal N`")
    options.add_argument("--say", default="", help="printed before that end, to stderr")
    options.add_argument("--on-term", type=int, default=-1, help="exit status with which SIGTERM is answered")
    options.add_argument("--child", action="store_true", help="start a process that leaves the session")
    args = options.parse_args()

    if args.on_term >= 0:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(args.on_term))
    if args.child:
        one = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.setsid(); "
        one += "open('child', 'w').write(str(os.getpid())); time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", one], env={} if "bare" in sys.argv else None)
    FOLDER.mkdir(exist_ok=True)
    step, weights = weights_in(saved()[-1]) if saved() else (0, "")
    print(f"begins after step {step}", flush=True)
    told = None
    if args.helper:
        from vl_agent import control

        folder = os.environ["VL_CONTROL"]
        told = control.Progress(folder)
        control.leave_signals_to_the_agent()
        told.tell(helper=1, pid=os.getpid())
    while step < args.steps:
        step += 1
        weights = one_step(weights, step)
        if told:
            told.tell(step=step, loss=1 / step, total=args.steps)
        while step == args.wait_at and not Path("go").exists() and not (told and control.read_notice(folder)):
            time.sleep(0.01)
        notice = told and control.read_notice(folder)
        if step % args.every == 0 or step == args.steps or notice:
            name = save(step, weights, args.padding).name
            if told:
                told.tell(saved=name, step=step, took_s=0.0)
            print(f"saved {step}", flush=True)
        if notice:
            told.tell(stopped=step, why=notice.why)
            sys.exit(control.STOPPED_EXIT)
        if step == args.end_at:
            print(args.say, file=sys.stderr, flush=True)
            how, number = args.end.split()
            if how == "signal":
                os.kill(os.getpid(), int(number))
            sys.exit(int(number))
        time.sleep(args.pause)


if __name__ == "__main__":
    main()
