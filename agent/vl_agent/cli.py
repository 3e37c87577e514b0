"""``vl-agent``: the commands of the box's side. ``run`` and ``status`` are a person's, the others vl-tui's."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from vl_agent import failure, paths
from vl_agent.failure import FAILED, FINISHED
from vl_agent.protocol import AgentConfig, ProtocolError, decode
from vl_agent.store import StoreError, leave


def main(argv: Sequence[str] | None = None) -> int:
    words, command = list(sys.argv[1:] if argv is None else argv), []
    if "--" in words:
        cut = words.index("--")
        words, command = words[:cut], words[cut + 1 :]
    parser = _parser()
    args = parser.parse_args(words)
    if args.command == "run" and not command:
        parser.error("run: give the training command after --, for example: -- python train.py")
    try:
        return _do(args, command)
    except KeyboardInterrupt:
        return failure.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - raised again where nobody foresaw it
        code, said = failure.explain(error)
        print(f"vl-agent: {said}", file=sys.stderr)
        return code


def _do(args: argparse.Namespace, command: list[str]) -> int:
    """Each command's code is imported when it is called."""
    if args.command in ("run", "status"):
        from vl_agent import run

        return run.main(args, command) if args.command == "run" else run.status(args)
    if args.command in ("checkpoints", "pin", "rollback"):
        from vl_agent import kept

        return kept.main(args)
    if args.command == "supervise":
        return supervise(args.run, args.launch)
    from vl_agent import channel

    return asyncio.run(channel.attach(args.run, args.launch))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vl-agent", description="Protects a training on this machine.", allow_abbrev=False,
        epilog="exit codes: 0 finished, 1 the run failed, 2 a mistake to correct, 3 unreachable, 130 interrupted",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run", help="protect one training here", allow_abbrev=False,
        usage="vl-agent run --store URL --run NAME --checkpoints DIR [--keep N] [--keep-every STEPS] [--every 5m]"
        " [--on-hang report] -- CMD...",
        description="Runs CMD, brings its checkpoints into the store as they are saved, and resumes from the newest one"
        " when it is started again, here or in another folder or on another machine.",
    )  # fmt: skip
    _store_of(run)
    run.add_argument("--checkpoints", required=True, metavar="DIR", help="where CMD saves, below this folder")
    run.add_argument("--keep", type=int, default=3, metavar="N", help="durable checkpoints kept (default 3)")
    run.add_argument("--keep-every", type=int, metavar="STEPS", help="and the first of each so many steps")
    run.add_argument(
        "--take-over", action="store_true",
        help="go on here although another machine took it up meanwhile (jobs and boxes may begin by themselves)",
    )  # fmt: skip
    run.add_argument("--every", metavar="TIME", help="cadence for the helper: 30s, 5m, 2h")
    run.add_argument(
        "--on-hang", choices=("restart", "report"), default="restart",
        help="when it makes no more steps: start it anew from its newest checkpoint (default), or only say so",
    )  # fmt: skip
    status = commands.add_parser("status", help="what runs here", allow_abbrev=False)
    status.add_argument("--run", metavar="NAME", dest="name")
    status.add_argument("--json", action="store_true")
    listing = commands.add_parser("checkpoints", help="the durable checkpoints that a run keeps", allow_abbrev=False)
    _store_of(listing)
    listing.add_argument("--json", action="store_true")
    pin = commands.add_parser("pin", help="keep a durable checkpoint until you say otherwise", allow_abbrev=False)
    _store_of(pin)
    pin.add_argument("--step", type=int, required=True, metavar="STEP")
    pin.add_argument("--off", action="store_true", help="no longer")
    back = commands.add_parser("rollback", help="go back to a kept checkpoint", allow_abbrev=False)
    _store_of(back)
    back.add_argument("--step", type=int, required=True, metavar="STEP")
    for name, words in (("supervise", "start a launch's supervisor"), ("attach", "stream a launch")):
        sub = commands.add_parser(name, help=f"{words} (for vl-tui)", allow_abbrev=False)
        sub.add_argument("--run", required=True)
        sub.add_argument("--launch", type=int, required=True)
    return parser


def _store_of(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--store", required=True, metavar="URL", help="s3://bucket/prefix, gs://, az:// or file:///folder"
    )
    command.add_argument("--endpoint", metavar="URL", help="for S3-compatible stores")
    command.add_argument("--run", required=True, metavar="NAME", dest="name")


def supervise(run: str, launch: int) -> int:
    """Start the launch's supervisor, detached, unless one lives; print one JSON line. AgentConfig comes on stdin."""
    config = decode(AgentConfig, sys.stdin.buffer.read(1 << 20))
    if (config.run, config.launch) != (run, launch):
        raise ProtocolError("the configuration on stdin is for another launch")
    folder = paths.launch_folder(run, launch)
    try:
        folder.make()
        lock = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        print(f"vl-agent: {folder.path}: {error.strerror}: free some room or set VL_HOME.", file=sys.stderr)
        return FAILED
    if not _locked(lock) or folder.ended.exists():
        print(json.dumps({"ready": True, "pid": _living(lock), "already": True}))
        return FINISHED

    from vl_agent.detach import detached

    word = detached(_child(config, folder, lock), folder.supervisor_log, lock)
    if not word:
        told = folder.supervisor_log.read_text(errors="replace").strip().splitlines()
        print(f"vl-agent: the supervisor did not start: {told[-1] if told else 'no reason told'}", file=sys.stderr)
        return FAILED
    print(json.dumps({"ready": True, "pid": int(word), "already": False}))
    return FINISHED


def _child(config: AgentConfig, folder: paths.LaunchFolder, lock: int) -> Callable[[Callable[[str], None]], None]:
    def child(say: Callable[[str], None]) -> None:
        from vl_agent import supervisor

        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        try:
            asyncio.run(supervisor.main(config, folder, lambda: say(str(os.getpid()))))
        except StoreError as error:
            print(error, file=sys.stderr)

    return child


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _living(lock: int) -> int:
    """The pid of who holds the lock; one that has just begun is given a moment to write it."""
    for _ in range(40):
        words = os.pread(lock, 20, 0)
        if words.isdigit():
            return int(words)
        time.sleep(0.05)
    return 0


def script() -> NoReturn:
    """``vl-agent`` as a process of its own."""
    leave(main())
