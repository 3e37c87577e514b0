"""``vl-agent run``: protects one training on this machine, with no controller; ``vl-agent status`` shows what runs.

The training runs in a session of its own and outlives a ``kill -9`` of this process, as it would outlive a supervisor:
its record is found at the next start here, under whatever folder, and the processes are ended before anything begins.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

from vl_agent import head as heads
from vl_agent import paths, processes, recognise, training
from vl_agent.attempt import Attempt
from vl_agent.failure import FAILED, FINISHED, INTERRUPTED, MISTAKE, Mistake
from vl_agent.notices import slurm
from vl_agent.notices.watches import Watches
from vl_agent.protocol import (
    Beat,
    CheckpointPolicy,
    Head,
    ProtocolError,
    RunSpec,
    beat_key,
    check_name,
    decode,
    encode,
)  # fmt: skip
from vl_agent.status import Status
from vl_agent.store import Exists, Store, StoreError, open_store, prove
from vl_agent.training import Ended

BEAT_S = 2.0
ECHO_S = 2.0
"""The training's last lines get so long to reach the terminal."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600}


def main(args: argparse.Namespace, command: list[str]) -> int:
    """Run the command to its end; the exit code says how. Raises what ``failure.explain`` knows."""
    spec = _spec(args, command)
    options = {"endpoint": args.endpoint} if args.endpoint else {}
    return asyncio.run(_protect(spec, args.store, options, take_over=args.take_over))


def _spec(args: argparse.Namespace, command: list[str]) -> RunSpec:
    check_name(args.name)
    here = Path.cwd().resolve()
    folder = (here / args.checkpoints).resolve()
    if here not in folder.parents:
        raise Mistake(f"--checkpoints {args.checkpoints}: name a folder below {here}, where the command runs.")
    if args.keep < 1 or (args.keep_every is not None and args.keep_every < 1):
        raise Mistake("--keep and --keep-every: at least 1.")
    policy = CheckpointPolicy(folder.relative_to(here).as_posix(), _seconds(args.every), args.keep, args.keep_every)
    return RunSpec(
        args.name, "", shlex.join(command), policy, market="owned", on_hang=args.on_hang, submitted_at=time.time()
    )  # fmt: skip


def _seconds(words: str | None) -> float | None:
    if words is None:
        return None
    found = _DURATION.fullmatch(words)
    if found is None or float(found[1]) <= 0:
        raise Mistake(f"--every {words}: write a time with its unit: 30s, 5m, 2h.")
    return float(found[1]) * _UNIT_S[found[2]]


async def _protect(spec: RunSpec, url: str, options: dict[str, str], *, take_over: bool) -> int:
    folder = paths.launch_folder(spec.name, 0)
    folder.make()
    with folder.lock.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Mistake(f"{spec.name} runs on this machine already: `vl-agent status` shows it.") from None
        processes.adopt_orphans()
        if await training.end_former(folder.training):
            _say("ended what the last start had left running")
        store = open_store(url, options)
        try:
            return await _hold(spec, store, folder, take_over=take_over)
        finally:
            await store.close()


async def _hold(spec: RunSpec, store: Store, folder: paths.LaunchFolder, *, take_over: bool) -> int:
    await prove(store)
    try:
        before = await heads.submit(store, spec)
    except Exists:  # started before with another command: the newest word counts
        before = await heads.first(store, spec.name)
    if before.state == "finished":
        _say(f"{spec.name} has finished: its last checkpoint is step {before.checkpoint and before.checkpoint.step}")
        return FINISHED
    ended = await _attempts(spec, store, folder, take_over=take_over)
    if ended.cause == "finished":
        return FINISHED
    return INTERRUPTED if ended.cause in ("stopped", "notice") else FAILED


async def _attempts(spec: RunSpec, store: Store, folder: paths.LaunchFolder, *, take_over: bool) -> Ended:
    """One, and after a hang another one here, unless it comes no further."""
    hung: int | None = None
    while True:
        head = await _take(spec.name, store, folder, take_over=take_over, again=hung is not None)
        if head.checkpoint is not None:
            _say(f"resumes from step {head.checkpoint.step} (attempt {head.epoch})")
        status = Status(0, epoch=head.epoch)
        ended = await _attempt(spec, store, folder, head, status)
        _say(f"{ended.cause}: {ended.detail}")
        step = status.step or 0
        if ended.cause != "hang" or (hung is not None and step <= hung):
            return ended
        hung = step


async def _take(run: str, store: Store, folder: paths.LaunchFolder, *, take_over: bool, again: bool) -> Head:
    """Begin the next epoch. What begins by itself (a box that wakes up, a job that Slurm began again, the attempt after
    a hang: ``again``) does so only while the head still shows its own last claim: the run may have been taken up
    elsewhere meanwhile."""
    former = _claims(folder.claims)
    wakes = recognise.here().provider in recognise.WAKE and bool(former)
    by_itself = again or (not take_over and (wakes or slurm.restarted(os.environ)))
    mine = heads.new_holder()
    paths.replace_file(folder.claims, json.dumps([*former[-1:], mine]).encode(), sync=True)
    try:
        return await heads.takeover(store, run, mine=mine, last=former if by_itself else None)
    except heads.Fenced as fenced:
        paths.replace_file(folder.claims, json.dumps(former).encode(), sync=True)
        raise Mistake(
            f"{run} was taken up elsewhere while this box was away: {fenced}. Nothing is begun here; to go on here all"
            " the same, add --take-over."
        ) from None


def _claims(path: Path) -> list[str]:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return []
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


async def _attempt(spec: RunSpec, store: Store, folder: paths.LaunchFolder, head: Head, status: Status) -> Ended:
    attempt = Attempt(
        store, spec, head, folder.epoch(head.epoch), Path.cwd(), folder.control, folder.training,
        folder.path / "fetched", status, {},
    )  # fmt: skip
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: attempt.stop("stopped by Ctrl-C", save=True))
    watches = Watches(("auto",), attempt, recognise.here(), ask=True)
    beside = [
        asyncio.create_task(_beat(spec.name, store, folder, status)),
        asyncio.create_task(_reap(attempt)),
        asyncio.create_task(_watch_head(attempt)),
    ]
    echo = _Echo(attempt.log)
    try:
        ended = await attempt.run("", provider=watches.place.provider, notices=list(watches.names))
        if ended.cause not in ("fenced", "host_fault"):
            await watches.durable()
        if ended.cause == "notice" and attempt.noticed is not None and slurm.takes_its_job(attempt.noticed):
            _say("all that was saved is durable: waits for Slurm to take this job, and to begin it again where it may")
            await asyncio.sleep(slurm.TAKEN_S)
        return ended
    finally:
        await watches.close()
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await asyncio.to_thread(echo.end)
        paths.replace_file(folder.beat, encode(status.beat()))


async def _beat(run: str, store: Store, folder: paths.LaunchFolder, status: Status) -> None:
    while True:
        with contextlib.suppress(StoreError, OSError):
            beat = encode(status.beat())
            paths.replace_file(folder.beat, beat)
            began = time.time()
            await store.put(beat_key(run, status.epoch), beat)
            status.beat_put = began, time.time()
        await asyncio.sleep(BEAT_S)


async def _reap(attempt: Attempt) -> None:
    """Collect what the training's dead parents left to us."""
    while True:
        await asyncio.sleep(BEAT_S)
        if attempt.pid:
            processes.reap((attempt.pid,))


async def _watch_head(attempt: Attempt) -> None:
    while not attempt.is_over:
        await asyncio.sleep(BEAT_S)
        await attempt.look_at_head()


class _Echo:
    """The training's output on this terminal: it writes into a file, so that it outlives this process. In a thread of
    its own, which nobody waits for: a terminal that reads nothing (Ctrl-S, a pager) must hold up nothing else."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="echo", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Bring the last lines, as far as somebody reads them."""
        self._over.set()
        self._thread.join(ECHO_S)

    def _run(self) -> None:
        at = 0
        with contextlib.suppress(OSError):  # nobody is there any more
            while True:
                last = self._over.wait(0.1)
                with contextlib.suppress(FileNotFoundError), self._log.open("rb") as file:
                    file.seek(at)
                    while chunk := file.read(65536):
                        at += len(chunk)
                        _write(chunk)
                if last:
                    return


def _write(chunk: bytes) -> None:
    """Past Python's own buffer, whose lock a write that hangs would hold against the end of this process."""
    while chunk:
        chunk = chunk[os.write(sys.stdout.fileno(), chunk) :]


def status(args: argparse.Namespace) -> int:
    """Print what the agents of this machine last said."""
    found = []
    for path in sorted((paths.home() / "runs").glob("*/*/beat.json")):
        run, launch = path.parts[-3], path.parts[-2]
        if args.name and run != args.name:
            continue
        with contextlib.suppress(ProtocolError, OSError):
            found.append((run, launch, time.time() - path.stat().st_mtime, decode(Beat, path.read_bytes())))
    if args.name and not found:
        print(f"vl-agent: {args.name}: nothing of that run is on this machine.", file=sys.stderr)
        return MISTAKE
    if args.json:
        print(json.dumps([{"run": r, "launch": n, "age_s": round(age, 1), **vars(beat)} for r, n, age, beat in found]))
        return FINISHED
    for run, launch, age, beat in found:
        print(
            f"{run}  launch {launch}  attempt {beat.epoch}  {beat.phase}  step {_or_dash(beat.step)}"
            f"  saved {_or_dash(beat.saved_step)}  durable {_or_dash(beat.durable_step)}  {age:.0f} s ago"
            + (f"  {beat.layout}" if beat.layout else "")
            + (f"  AT RISK {_span(beat.at_risk_s + age)}: {beat.at_risk}" if beat.at_risk else "")
        )
    if not found:
        print("nothing runs here")
    return FINISHED


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)


def _span(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _say(words: str) -> None:
    print(f"vl-agent: {words}", file=sys.stderr, flush=True)
