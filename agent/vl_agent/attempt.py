"""One attempt on this box: from holding the epoch to its end. The same for a launched box and for ``vl-agent run``.

It restores, runs the command, makes its saves durable, and says how it ended. Whatever tells that the epoch is over (a
refused commit, a look at the head) ends the training: a fenced box may compute, but it costs money for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from vl_agent import control, paths, recognise, told
from vl_agent import head as heads
from vl_agent.budget import Measures
from vl_agent.checkpoints import restore as restoring
from vl_agent.checkpoints import temporary
from vl_agent.checkpoints.doubt import Losses
from vl_agent.checkpoints.pipeline import Pipeline
from vl_agent.checkpoints.watch import Watch
from vl_agent.head import Fenced
from vl_agent.journal import Journal
from vl_agent.leaving import STOP_GRACE_S, Leaving
from vl_agent.log import LogShipper
from vl_agent.notices import Notice
from vl_agent.protocol import Cause, Head, Phase, ProtocolError, RunSpec
from vl_agent.reach import Reach
from vl_agent.status import Status
from vl_agent.store import Store, StoreError
from vl_agent.training import Ended, Training
from vl_agent.watchers import Watchers

T = TypeVar("T")

PROGRESS_S = 0.1
FENCED_PATIENCE_S = 10.0
"""A save that was on its way when the epoch was found to be over is let run into its own refusal for so long."""
LAST_WORDS_S = 10.0
_MOST_TURNS = 8
"""How often more is read at once: of a script that tells without end the rest is heard before its save is named."""
_NO_ROOM = 64 * 1024
"""Bytes below which a disk counts as full: no file of more than a few blocks can be written there."""


def _make_new(folder: Path) -> None:
    """An epoch begins with an empty folder. One that is there belongs to another store's run of the same name."""
    number = 0
    while folder.exists() and any(folder.iterdir()):
        number += 1
        other = folder.with_name(f"former-{number}-{folder.name}")
        if not other.exists():
            os.replace(folder, other)
    folder.mkdir(parents=True, exist_ok=True)


def _full(*folders: Path) -> str:
    """The first of the folders whose disk has no room left, or nothing."""
    for folder in folders:
        with contextlib.suppress(OSError):
            disk = os.statvfs(folder)
            if disk.f_bavail * disk.f_frsize < _NO_ROOM:
                return str(folder)
    return ""


class Attempt:
    """``run`` does it all; ``stop``, ``notice`` and ``fenced`` may be called while it runs, more than once."""

    def __init__(
        self, store: Store, spec: RunSpec, head: Head, folder: paths.EpochFolder, work: Path, control_folder: Path,
        record: Path, cache: Path, status: Status, secrets: Mapping[str, str],
        wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.store, self.spec, self.head, self.status = store, spec, head, status
        self._work, self._control, self._cache, self._secrets = work, control_folder, cache, secrets
        self._checkpoints = work / spec.checkpoints.path
        _make_new(folder.path)
        self.log = folder.log
        self.journal = Journal(folder.journal, spec.name, head.epoch, store)
        self.measures = Measures()
        self.reach = Reach(status, self._tell)
        self._shipper = LogShipper(folder.log, spec.name, head.epoch, store)
        self._training = Training(record, folder.log, tuple(secrets.values()))
        self._leaving = Leaving(self._training, control_folder, status, self.measures, self._tell, wall)
        self._watchers = Watchers(
            store, spec, self._training, log=folder.log, checkpoints=self._checkpoints, status=status,
            tell=self._tell, reach=self.reach, secrets=tuple(secrets.values()), read_step=self._read_step,
            fault=self._fault,
        )  # fmt: skip
        self._pipeline: Pipeline | None = None
        self._losses = Losses()
        self._reading = False
        self._saved_and_stops = False
        self._faulted: tuple[Cause, str] | None = None
        self._missed = 0
        self._running = False
        self._fenced: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self._sweeping: asyncio.Task[None]

    @property
    def pid(self) -> int:
        """The running command's; 0 while there is none."""
        return self._training.pid if self._running else 0

    async def run(self, box: str, **place: Any) -> Ended:
        """To the end of the attempt, which is told in journal and head as well. Cancelled, it ends the training.
        ``place``: what the box was recognised as, for the journal."""
        self._tell("claimed", launch=self.head.launch, box=box, **place)
        tasks = [asyncio.create_task(self.journal.keep_shipping()), asyncio.create_task(self._shipper.keep_shipping())]
        self._sweeping = asyncio.create_task(self._sweep())
        tasks.append(self._sweeping)
        try:
            ended = await self._foreseen()
        except Fenced as fenced:
            ended = await self._give_up(fenced.head)
        finally:
            if self._running:  # cancelled, or an error that nobody foresaw: nothing may train unwatched
                await self._training.end("the agent ends", grace_s=2.0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, self._leaving.close(), return_exceptions=True)
        self._tell("ended", state=ended.cause, detail=ended.detail)
        self._phase("ended", f"{ended.cause}: {ended.detail}")
        await self._last_words()
        return ended

    # -------------------------------------------------------------------------------------- what others may tell it

    def stop(self, why: str, *, save: bool) -> None:
        """End the training; ``save``: let it save first where it can."""
        self._leaving.stop(why, save=save)

    def notice(self, notice: Notice) -> None:
        """The provider will take this box."""
        self._leaving.notice(notice)

    @property
    def noticed(self) -> Notice | None:
        """The notice that counts, where one came."""
        return self._leaving.had

    def withdrawn(self, source: str, detail: str) -> None:
        """It will not."""
        self._leaving.withdrawn(source, detail)

    def advice(self, source: str, detail: str) -> None:
        """A softer word of the provider."""
        self._tell("advice", source=source, detail=detail)

    def trouble(self, source: str, words: str) -> None:
        """A source of notices can't be heard."""
        self._tell("warning", text=f"notices of {source} can't be heard: {words}")

    async def warn(self, text: str) -> None:
        """A word after its end."""
        self._tell("warning", text=text)
        await self._last_words()

    async def look_at_head(self) -> None:
        """Self-fence: a head at another epoch or holder ends this attempt, also when no save is due for hours."""
        try:
            head, _ = await heads.read(self.store, self.spec.name)
        except (StoreError, ProtocolError) as error:
            self._missed += 1
            if self._missed > 1:  # one lost answer is no risk yet
                self.reach.failed("head", error)
            return
        self._missed = 0
        self.reach.works("head")
        if (head.epoch, head.holder) != (self.head.epoch, self.head.holder) and not self._fenced.done():
            self._fenced.set_result(head)

    @property
    def is_over(self) -> bool:
        return self._fenced.done()

    # ------------------------------------------------------------------------------------------------------- inside

    async def _foreseen(self) -> Ended:
        """All of it; a fault of this machine (a full disk, a dead one) ends the attempt here, not the run."""
        try:
            return await self._all()
        except OSError as error:
            if self._running:
                await self._training.end("host fault", grace_s=STOP_GRACE_S)
                self._running = False
            words = f"{error.filename or 'this box'}: {error.strerror or error}"
            return await self._conclude(Ended(None, None, "host_fault", words))

    async def _all(self) -> Ended:
        self._phase("restoring", "fetches its checkpoint")
        restored = await self._asked(
            lambda: restoring.restore(self.store, self.spec.name, self.head, self._checkpoints, self._cache, self._tell)
        )
        if self._leaving.told:
            return await self._conclude(Ended(None, None, self._leaving.cause, f"{self._leaving.why} before it began"))
        self.status.step = self.status.saved_step = restored.step
        watch = Watch(self._checkpoints)
        watch.ignore_present()
        progress = control.ProgressReader(self._control)
        self._pipeline = Pipeline(
            self.store,
            self.spec.name,
            self.head,
            watch,
            self.reach,
            keep=self.spec.checkpoints.keep,
            keep_every=self.spec.checkpoints.keep_every,
            tell=self._watchers.tell,
            distrusted=restored.bad,
            swept=self._sweeping.done,
            doubt=lambda step: self._doubt(step, progress),
        )
        self._leaving.uploads = self._pipeline
        control.clear(self._control)
        if self.spec.checkpoints.every_s is not None:
            control.write_cadence(self._control, self.spec.checkpoints.every_s)
        self._running = True
        await self._training.start(self.spec.command, self._work, self._environment())
        self._tell("started", pid=self._training.pid, command=self.spec.command)
        self._phase("training", "")
        self._leaving.began()
        return await self._train(self._pipeline, progress)

    async def _train(self, pipeline: Pipeline, progress: control.ProgressReader) -> Ended:
        """While the command runs, and then until its last save is durable."""
        durable = asyncio.create_task(pipeline.run())
        reading = asyncio.create_task(self._keep_reading(progress, pipeline))
        waiting = asyncio.create_task(self._training.wait())
        watching = asyncio.create_task(self._watchers.run())
        try:
            first: set[asyncio.Future[Any]] = {durable, waiting, self._fenced}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                await self._cut(durable, waiting)
            ended = await waiting
            self._running = False
            self._leaving.over()
            watching.cancel()
            await self._read_all(progress, pipeline)  # its last words may say why it ended
            ended = self._exited(ended)
            await self._watchers.last_look()
            self._phase("draining", "brings its last save into the store")
            await pipeline.close(finished=ended.code in (0, control.STOPPED_EXIT))
            await self._settled(durable, pipeline)
        finally:
            for task in (reading, durable, waiting, watching):
                task.cancel()
            await asyncio.gather(reading, durable, waiting, watching, return_exceptions=True)
        await self._read_all(progress, pipeline)
        return await self._conclude(ended)

    async def _cut(self, durable: asyncio.Task[None], waiting: asyncio.Task[Ended]) -> None:
        """The head was seen elsewhere, or the pipeline ended, while the command runs: it is ended, or the pipeline's
        error raised."""
        if not self._fenced.done() and not isinstance(durable.exception(), Fenced):
            await durable
        self._phase("draining", "fenced: ends its training")
        self._tell("stopping", why="fenced")
        await self._training.end("fenced", grace_s=5.0)
        await asyncio.wait({waiting})

    async def _settled(self, durable: asyncio.Task[None], pipeline: Pipeline) -> None:
        """Until every save is durable. Raises ``Fenced``; a save on its way is let run into its own refusal first."""
        first: set[asyncio.Future[Any]] = {durable, self._fenced}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not durable.done() and pipeline.pending is not None:
            await asyncio.wait({durable}, timeout=FENCED_PATIENCE_S)
        if not durable.done():
            head = self._fenced.result()
            if pipeline.pending is not None:
                pipeline.refused(pipeline.pending, head)
            raise Fenced(head)
        await durable

    def _exited(self, ended: Ended) -> Ended:
        if self._saved_and_stops and ended.cause == "user_error":  # torchrun makes 1 of every status of its ranks
            ended = replace(ended, cause="notice", detail="saved and stopped as told")
        if self._leaving.told and ended.cause == "notice":
            ended = replace(ended, cause=self._leaving.cause, detail=f"{self._leaving.why}: {ended.detail}")
        elif self._leaving.noticed and self._cut_short(ended):
            ended = replace(ended, cause="notice", detail=f"notice: {ended.detail}")
        elif ended.cause == "notice":
            detail = f"exit status {ended.code}, which says that it was told to stop, but it was not"
            ended = replace(ended, cause="unknown", detail=detail)
        elif ended.cause == "user_error" and (full := _full(self.log.parent, self._checkpoints)):
            ended = replace(ended, cause="host_fault", detail=f"the disk of {full} is full: {ended.detail}")
        if self._faulted is not None:
            ended = replace(ended, cause=self._faulted[0], detail=self._faulted[1])
        self._tell("exited", code=ended.code, signal=ended.signal, cause=ended.cause, detail=ended.detail)
        return ended

    def _cut_short(self, ended: Ended) -> bool:
        """After a notice the command may have had the signal as well, from its provider; what it then made of it is no
        word on the run."""
        if ended.cause in ("fenced", "stopped", "host_fault"):
            return False
        total = self.status.total_steps or self.spec.total_steps
        step = max(self.status.step or 0, self.status.saved_step or 0)
        return ended.code != 0 or (total is not None and step < total)

    async def _give_up(self, head: Head) -> Ended:
        self._tell("fenced", head_epoch=head.epoch, head_holder=head.holder[:8])
        if self._running:
            await self._training.end("fenced", grace_s=5.0)
            self._running = False
        return Ended(None, None, "fenced", f"the run is at epoch {head.epoch} now")

    async def _conclude(self, ended: Ended) -> Ended:
        """Tell the head. Asks the store until it answers: nothing else is left to do. Journal and log go first: once
        the head says that it is over the box may be taken away."""
        await self._last_words()
        state = "finished" if ended.cause == "finished" else "released"
        detail = f"{ended.cause}: {ended.detail}"
        await self._asked(
            lambda: heads.conclude(
                self.store, self.spec.name, epoch=self.head.epoch, holder=self.head.holder,
                state="finished" if state == "finished" else "released", detail=detail,
            )
        )  # fmt: skip
        return ended

    async def _asked(self, act: Callable[[], Awaitable[T]]) -> T:
        """Ask the store until it answers, at risk meanwhile. Raises ``Fenced`` when the epoch is found to be over."""
        pause = 0.5
        while True:
            try:
                answer = await self._unless_fenced(act())
            except (StoreError, ProtocolError) as error:
                if self._fenced.done():
                    raise Fenced(self._fenced.result()) from None
                self.reach.failed("attempt", error)
                await asyncio.sleep(random.uniform(pause / 2, pause))
                pause = min(10.0, pause * 2)
                continue
            self.reach.works("attempt")
            return answer

    async def _unless_fenced(self, act: Awaitable[T]) -> T:
        task = asyncio.ensure_future(act)
        try:
            first: set[asyncio.Future[Any]] = {task, self._fenced}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=FENCED_PATIENCE_S)
            if task.done():
                return await task
            raise Fenced(self._fenced.result())
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    # ------------------------------------------------------------------------------------------------------ telling

    def _tell(self, kind: str, **fields: Any) -> None:
        self.measures.hear(kind, fields, time.monotonic())
        self.journal.tell(kind, **fields)

    def _fault(self, cause: Cause, words: str) -> None:
        """A hang, or a fault of this machine: the training is ended, and its attempt for this reason."""
        if not self._leaving.told:
            self._faulted = cause, words
            self._leaving.stop(cause, save=False)

    async def _keep_reading(self, progress: control.ProgressReader, pipeline: Pipeline) -> None:
        while True:
            await self._read_all(progress, pipeline)
            await asyncio.sleep(PROGRESS_S)

    async def _read_all(self, progress: control.ProgressReader, pipeline: Pipeline) -> None:
        """In turns with everything else: a script may tell as quickly as it is read."""
        self._read(progress, pipeline)
        while progress.behind:
            await asyncio.sleep(0)
            self._read(progress, pipeline)

    def _read(self, progress: control.ProgressReader, pipeline: Pipeline) -> None:
        """What the helper told: steps into the journal, saves to the pipeline."""
        self._reading = True  # a save asks for the losses up to it, which stand before it
        try:
            for word in told.read(progress):
                self._hear(word, pipeline)
        finally:
            self._reading = False
        self.status.saved_step = pipeline.saved_step or self.status.saved_step
        self.status.durable_step = pipeline.durable_step
        self.status.layout = pipeline.layout

    def _hear(self, word: told.Word, pipeline: Pipeline) -> None:
        if isinstance(word, told.Step):
            self._step(word)
        elif isinstance(word, told.Save):
            self.measures.hear_save(word.took_s)
            pipeline.saved(word.name, word.step, word.took_s)
        elif isinstance(word, told.Skipped):
            self._tell("save_skipped", step=word.step, why=word.why)
        elif isinstance(word, told.Stopped):
            self._saved_and_stops = True
        else:
            self._leaving.helper = True

    def _doubt(self, step: int, progress: control.ProgressReader) -> str:
        """Why a checkpoint of this step is suspect, by what was told so far."""
        if self._pipeline is not None and not self._reading:
            for _ in range(_MOST_TURNS):
                self._read(progress, self._pipeline)
                if not progress.behind:
                    break
        return self._losses.doubt(step)

    def _step(self, word: told.Step) -> None:
        self._watchers.step(word)
        self._told_step(word)

    def _read_step(self, word: told.Step) -> None:
        """Read in the output, where nobody tells steps."""
        self._told_step(word, source="log")

    def _told_step(self, word: told.Step, **source: str) -> None:
        total = self.spec.total_steps if word.total is None else word.total
        self.status.step, self.status.loss, self.status.total_steps = word.step, word.loss, total
        nonfinite = {"nonfinite": word.nonfinite} if word.nonfinite else {}
        self._tell("step", step=word.step, loss=word.loss, total=total, **source, **nonfinite)
        if word.loss is not None or word.nonfinite:
            self._losses.told(word.step, word.nonfinite)

    def _phase(self, phase: Phase, detail: str) -> None:
        self.status.phase, self.status.detail = phase, detail

    def _environment(self) -> dict[str, str]:
        """The person's environment and ours. Keys that the platform put into this box are not the trainer's."""
        env = {k: v for k, v in os.environ.items() if k not in (*recognise.KEYS, "VL_HOME")}
        env.update(self.spec.env)
        env.update(self._secrets)
        train = paths.train_folder()
        if train is not None:
            env["PYTHONPATH"] = os.pathsep.join(part for part in (str(train), env.get("PYTHONPATH", "")) if part)
        if "PYTHONUNBUFFERED" not in env:
            env["PYTHONUNBUFFERED"] = "1"
            why = "loss lines on a pipe would come minutes late"
            self._tell("environment", name="PYTHONUNBUFFERED", value="1", why=why)
        folder = temporary.better(self._checkpoints, env)
        if folder is not None:
            env["TMPDIR"] = str(folder)
            why = "on the checkpoints' file system: a file made there and renamed is never seen half"
            self._tell("environment", name="TMPDIR", value=str(folder), why=why)
        env["VL_CONTROL"] = str(self._control)
        env["VL_RUN"], env["VL_EPOCH"] = self.spec.name, str(self.head.epoch)
        return env

    async def _sweep(self) -> None:
        """What older epochs left is deleted once, early; a failure only leaves it there."""
        with contextlib.suppress(StoreError, ProtocolError, Fenced):
            await heads.sweep(self.store, self.spec.name, epoch=self.head.epoch, holder=self.head.holder)

    async def _last_words(self) -> None:
        """Journal and log into the store, if it answers soon."""
        with contextlib.suppress(StoreError, OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._ship_all(), LAST_WORDS_S)

    async def _ship_all(self) -> None:
        await self.journal.ship()
        await self._shipper.ship()
