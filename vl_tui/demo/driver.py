"""``vl-tui demo``: submits a real run, breaks things at observed steps, and reports what happened."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vl_agent.protocol import ProtocolError
from vl_agent.store import StoreError

from vl_tui import app
from vl_tui.app import events
from vl_tui.config import ConfigError
from vl_tui.controller.process import ControllerFailed
from vl_tui.demo import report
from vl_tui.demo.faults import make_faults
from vl_tui.demo.plan import plan
from vl_tui.demo.report import FaultMade
from vl_tui.demo.world import World
from vl_tui.domain.safe import clean
from vl_tui.failure import FINISHED, INTERRUPTED, RUN_FAILED, Refused
from vl_tui.providers.base import ProviderError

STEPS = 450
_TOLD = ("launched", "attempt", "restored", "notice", "verdict", "commit_refused", "controller", "verified")
STILL_S = 180.0
"""A run of which nothing was heard for so long, no step and no event, is given up and reported as it is. No limit on
the whole: a slow machine's run ends as well."""
OWN_STILL_S = 24 * 3600.0


@dataclass
class Progress:
    """What a demo that goes on in the same folder must know: kept in ``demo.json``."""

    seed: int
    command: str
    checkpoints: str
    own: bool
    began: float
    made: list[FaultMade] = dataclasses.field(default_factory=list)
    restarts: list[float] = dataclasses.field(default_factory=list)

    def keep(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(dataclasses.asdict(self)))
        os.replace(temporary, path)

    @staticmethod
    def read(path: Path) -> Progress:
        found = json.loads(path.read_text())
        found["made"] = [FaultMade(**fault) for fault in found["made"]]
        return Progress(**found)


def main(args: argparse.Namespace) -> int:
    """Run the demo; 0 when its run has finished."""
    if not sys.platform.startswith("linux"):
        raise Refused("the embedded fleet needs Linux: its boxes are ended through /proc. On macOS use a container.")
    progress_of = _progress(args)
    with contextlib.ExitStack() as stack:
        if args.state is None:
            made = tempfile.TemporaryDirectory(prefix="vl-demo-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
        else:
            folder = args.state
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        progress = _fresh_or_former(folder, progress_of, resume=args.resume_state)
        try:
            headless = args.headless or args.json
            status = asyncio.run(_demo(folder.resolve(), progress, headless=headless, as_json=args.json))
        except (KeyboardInterrupt, asyncio.CancelledError):
            status = INTERRUPTED
    if status == INTERRUPTED:
        print(_left(folder, progress), file=sys.stderr)
    return status


def _progress(args: argparse.Namespace) -> Progress:
    if not args.checkpoints:
        command = f"python train.py --steps {STEPS} --seed 1 --threads 1"
        return Progress(args.seed, command, "ckpt", False, time.time())
    checkpoints = Path(args.checkpoints)
    if checkpoints.is_absolute() or ".." in checkpoints.parts or checkpoints == Path("."):
        raise Refused(f"--checkpoints {args.checkpoints}: name a folder below this one, relative, without '..'.")
    return Progress(args.seed, shlex.join(args.training), checkpoints.as_posix(), True, time.time())


def _fresh_or_former(folder: Path, wanted: Progress, *, resume: bool) -> Progress:
    path = folder / "demo.json"
    if not path.exists():
        wanted.keep(path)
        return wanted
    if not resume:
        raise Refused(f"{folder} holds a demo already: go on with --resume-state, or name another folder.")
    former = Progress.read(path)
    if (former.seed, former.command, former.checkpoints) != (wanted.seed, wanted.command, wanted.checkpoints):
        raise Refused(f"{folder} holds a demo with another seed or command: give the same ones, or another folder.")
    former.restarts.append(time.time())
    former.keep(path)
    return former


async def _demo(folder: Path, progress: Progress, *, headless: bool, as_json: bool) -> int:
    main_task = asyncio.current_task()
    assert main_task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, main_task.cancel)
    say = _Talk(progress.began, None if headless else folder / "talk.log")
    work = await asyncio.to_thread(_workdir, folder, progress)
    say(f"starts an S3 server and an embedded fleet in {folder}")
    async with World(folder) as world:
        await world.wait_for_former()
        await world.submit(work, progress.command, progress.checkpoints)
        say(f"submitted: {progress.command}")
        say.aloud = headless  # from here on the app has the terminal
        reference = asyncio.create_task(_reference(world, progress))
        faults = asyncio.create_task(_faults(world, progress, say))
        try:
            if headless:
                ended = await _headless(world, faults, say, Still(OWN_STILL_S if progress.own else STILL_S))
            else:
                await app.show(world.config)
                say.aloud = True
                ended = (await world.look()).ended
                if not ended:
                    return INTERRUPTED
            found = await _report(world, progress, await _uninterrupted(world, reference, say) if ended else None)
        finally:
            for task in (reference, faults):
                task.cancel()
            await asyncio.gather(reference, faults, return_exceptions=True)
    _tell(found, as_json=as_json)
    return FINISHED if found["finished"] else RUN_FAILED


def _left(folder: Path, progress: Progress) -> str:
    words = "vl-tui demo: left before its run had ended; its boxes, its store and its controller end with it."
    if not folder.exists():
        return words
    own = f" --checkpoints {shlex.quote(progress.checkpoints)} -- {progress.command}" if progress.own else ""
    again = f"vl-tui demo --state {shlex.quote(str(folder))} --seed {progress.seed} --resume-state{own}"
    return f"{words} To go on: {again}"


def _workdir(folder: Path, progress: Progress) -> Path:
    """What the run runs in: the demo's own script, or a copy of the current folder without its checkpoints."""
    work = folder / "work"
    if work.exists():
        return work
    new = folder / ".work.new"
    shutil.rmtree(new, ignore_errors=True)
    if not progress.own:
        shutil.copytree(Path(__file__).parent / "workdir", new, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        here = Path.cwd()
        left_out = {(here / progress.checkpoints).resolve(), folder.resolve()}

        def ignore(where: str, names: list[str]) -> set[str]:
            return {n for n in names if n in (".git", "__pycache__", ".venv") or Path(where, n).resolve() in left_out}

        shutil.copytree(here, new, ignore=ignore, symlinks=True)
    new.rename(work)
    return work


async def _faults(world: World, progress: Progress, say: _Talk) -> None:
    def keep() -> None:
        progress.keep(world.folder / "demo.json")

    steps = None if progress.own else STEPS
    try:
        await make_faults(world, plan(progress.seed, steps), progress.made, keep, say)
    except (ProviderError, StoreError, ProtocolError, OSError) as error:
        say(f"a fault could not be made: {error}")


class Still:
    """Whether a run stands still. Called with how many events were seen so far and the time by a monotonic clock."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._seen, self._since = -1, 0.0

    def __call__(self, seen: int, now: float) -> bool:
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since > self.limit_s


async def _headless(world: World, faults: asyncio.Task[None], say: _Talk, still: Still) -> bool:
    """Until the run has ended and the last fault is over; progress on stderr. False: it stands still."""
    telling = asyncio.create_task(_keep_telling(world, say))
    keeping = asyncio.create_task(_keep_controller(world))
    over = asyncio.create_task(_over(world, faults, say))
    try:
        while not over.done():
            await asyncio.wait({over}, timeout=1.0)
            if not over.done() and still(len(world.arrived), time.monotonic()):
                say(f"nothing has happened for {still.limit_s:.0f} s: given up")
                return False
        await over
        return True
    finally:
        for task in (telling, keeping, over):
            task.cancel()
        await asyncio.gather(telling, keeping, over, return_exceptions=True)


async def _over(world: World, faults: asyncio.Task[None], say: _Talk) -> None:
    seen = await world.ended()
    say(f"the run has {seen.head.state}: {seen.head.detail}")
    await faults


async def _keep_controller(world: World) -> None:
    """As the app does: where none lives, one is started."""
    while True:
        await asyncio.sleep(2.0)
        with contextlib.suppress(ControllerFailed, StoreError, ConfigError):
            await world.ensure_controller()


async def _keep_telling(world: World, say: _Talk) -> None:
    """What happens to the run, each event once, in the order in which the store shows them."""
    told = 0
    while True:
        await world.look()
        fresh, told = world.arrived[told:], len(world.arrived)
        for event in sorted(fresh, key=lambda event: event.t):
            if event.kind in _TOLD:
                say(clean(" ".join(events.told(event)[2].split())))
        await asyncio.sleep(1.0)


async def _reference(world: World, progress: Progress) -> str | None:
    """The same script without faults, in a folder of its own: the weights that it ends with."""
    folder = world.folder / "reference"
    kept = world.folder / "reference.sha256"
    if kept.exists():
        return kept.read_text()
    await asyncio.to_thread(shutil.rmtree, folder, True)
    await asyncio.to_thread(shutil.copytree, world.folder / "work", folder, symlinks=True)
    process = await world.leashed(["/bin/sh", "-c", progress.command], folder, world.folder / "reference.log")
    try:
        status = await process.wait()
    finally:
        await _end(process)
    if status != 0:
        return None
    newest = _newest(folder / progress.checkpoints)
    weights = await _weights(newest) if newest else None
    if weights:
        kept.write_text(weights)
    return weights


def _newest(folder: Path) -> Path | None:
    from vl_agent.checkpoints import files

    found = [path for path in folder.iterdir() if path.is_file() and files.is_candidate(path.name)]
    return max(found, key=lambda path: (files.step_of(path.name) or 0, path.name), default=None)


async def _weights(path: Path) -> str | None:
    """The hash over the tensors of a file, by a process that may import torch; None: it holds none that can be read."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vl_tui.demo.weights", str(path), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        out, _ = await process.communicate()
    finally:
        await _end(process)
    return out.decode().strip() or None if process.returncode == 0 else None


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        if process.stdin is not None:
            process.stdin.close()  # the leash
        with contextlib.suppress(asyncio.TimeoutError, ProcessLookupError):
            await asyncio.wait_for(process.wait(), 6.0)
            return
        process.kill()
        await process.wait()


async def _uninterrupted(world: World, reference: asyncio.Task[str | None], say: _Talk) -> str | None:
    """The weights of the training without faults; of use only where the run came to its end."""
    if (await world.look()).head.state != "finished":
        return None
    if not reference.done():
        say("waits for the same training without faults, to compare the weights with")
    return await reference


async def _report(world: World, progress: Progress, uninterrupted: str | None) -> dict[str, object]:
    orphans = await world.cleaned_up()
    seen = await world.look()
    target = world.folder / "final"
    finished = seen.head.state == "finished"  # weights half trained are no one's to compare
    final = await _weights(target) if finished and await world.last_checkpoint(target) else None
    return dict(
        report.document(
            seed=progress.seed,
            finished=finished,
            faults=progress.made,
            events=seen.events,
            history=await world.history(),
            orphans=orphans,
            final_weights=final,
            uninterrupted_weights=uninterrupted,
            seconds=time.time() - progress.began,
            restarts=progress.restarts,
        )
    )


def _tell(found: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        if key != "faults":
            print(f"{key}: {value}")
    faults = found["faults"]
    assert isinstance(faults, list)
    for row in faults:
        print("fault: " + " ".join(f"{name}={value}" for name, value in row.items()))


class _Talk:
    """Progress on stderr (not while the app has the terminal) and, where there is one, in a file."""

    def __init__(self, began: float, path: Path | None) -> None:
        self._began, self._path = began, path
        self.aloud = True

    def __call__(self, words: str) -> None:
        line = f"[{time.time() - self._began:6.1f} s] {words}"
        if self.aloud:
            print(line, file=sys.stderr, flush=True)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(line + "\n")
