"""What looks at a training from outside while it runs: the figures in its output, the machine's, its health, its steps.

Nothing in here may hurt the training or the attempt: a watcher that fails is said and is gone, the rest goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any

from vl_agent import health
from vl_agent.evidence import within
from vl_agent.hang import HangWatch
from vl_agent.health import Durables, Health, Trouble
from vl_agent.metrics import gpu
from vl_agent.metrics.gpu import GpuWatch, Sampled
from vl_agent.metrics.gpu_faults import Fault, Faults
from vl_agent.metrics.host import Host, HostWatch
from vl_agent.metrics.progress import Progress
from vl_agent.metrics.training_log import TrainingLog
from vl_agent.protocol import Cause, RunSpec, beat_key
from vl_agent.reach import Reach, Reason
from vl_agent.status import Status
from vl_agent.store import Store, StoreError
from vl_agent.told import Step
from vl_agent.training import Training

LOOK_S = 0.5
"""Between looks at the log: so often at most is a step read in it told."""
MEASURE_S = 5.0
CLOCK_FIRST_S, CLOCK_S = 10.0, 300.0
"""Between comparisons of this box's clock with the store's."""
_LAST_LOOKS = 10
_TRIES = 5

Tell = Callable[..., None]


class Watchers:
    """Of one attempt. ``run`` while its command runs; ``step`` and ``tell`` as it goes on."""

    def __init__(
        self, store: Store, spec: RunSpec, training: Training, *, log: Path, checkpoints: Path, status: Status,
        tell: Tell, reach: Reach, secrets: Collection[str], read_step: Callable[[Step], None],
        fault: Callable[[Cause, str], None],
    ) -> None:  # fmt: skip
        """``read_step`` gets the steps that the log says, where nobody tells them directly; ``fault`` ends the
        attempt."""
        self._store, self._spec, self._training, self._status = store, spec, training, status
        self._tell, self._reach, self._read_step, self._fault = tell, reach, read_step, fault
        self._folder = str(checkpoints)
        self._log = TrainingLog(log)
        self._host = HostWatch(checkpoints)
        self._gpus = GpuWatch()
        self._gpu_faults = Faults()
        self._sampled: Sampled | None = None
        self._found_faults: list[Fault] = []
        self._used_gpus: set[str] = set()
        self._health = Health(tell)
        self._durables = Durables(time.monotonic(), spec.checkpoints.every_s)
        self._save: int | None = None
        self._directly = False
        self._progress = Progress()
        self._told: tuple[int | None, float | None] = (None, None)
        self._hang = HangWatch(
            pids=training.members, log=self._log, checkpoints=checkpoints, tell=tell, reach=reach, secrets=secrets,
            gpus=self._gpu_figures, hung=(lambda words: fault("hang", words)) if spec.on_hang == "restart" else None,
        )  # fmt: skip

    async def run(self) -> None:
        """Until cancelled."""
        self._durables = Durables(time.monotonic(), self._spec.checkpoints.every_s)
        self._gpus.start()
        watches = {
            "reading": self._keep_reading, "measuring": self._keep_measuring, "hang watch": self._hang.run,
            "clock watch": self._keep_clock,
        }  # fmt: skip
        tasks = [asyncio.create_task(self._unharmed(name, watch)) for name, watch in watches.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            self._gpus.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def step(self, step: Step) -> None:
        """A step that was told directly: from now on the log's are not needed."""
        self._directly = True
        self._hang.step(step.step)

    def tell(self, kind: str, **fields: Any) -> None:
        """An event of the checkpoint path: into the journal, and seen on its way."""
        if kind == "saved" and isinstance(fields.get("bytes"), int):
            self._save = fields["bytes"]
        elif kind == "durable":
            self._durables.durable(time.monotonic())
        self._tell(kind, **fields)

    async def last_look(self) -> None:
        """The command has ended: what it printed last counts too, and what threatened it does so no more."""
        for reason in ("hang", "disk", "checkpoint"):
            self._reach.no_risk(reason)
        for _ in range(_LAST_LOOKS):
            await self._read()
            if not self._log.behind:
                return

    # ------------------------------------------------------------------------------------------------------- inside

    async def _unharmed(self, name: str, watch: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await watch()
        except Exception as error:  # noqa: BLE001 - whatever it is, the training is worth more than this watcher
            self._tell("warning", text=f"{name} has failed and is off: {error!r}"[:300])

    async def _keep_reading(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._read()

    async def _read(self) -> None:
        before, now = self._progress, await asyncio.to_thread(self._log.look)
        self._progress = now
        if not self._directly and now.step is not None and (now.step, now.loss) != self._told:
            self._told = now.step, now.loss
            self._hang.step(now.step)
            self._read_step(Step(now.step, now.loss, now.total))
        elif now.moves != before.moves:  # another counter: an evaluation's
            self._hang.active()

    # -- the machine

    async def _keep_measuring(self) -> None:
        while True:
            host = await within(self._host.look, MEASURE_S) or _UNKNOWN  # a disk's file system may hang
            self._judge(host)
            await self._judge_gpus()
            self._tell("metrics", **figures(self._progress, host, self._gpu_figures()))
            await asyncio.sleep(MEASURE_S)

    def _judge(self, host: Host) -> None:
        said = self._health.is_open
        self._health.now("disk", health.of_disk(host, self._folder, said=said("disk")))
        self._health.now("memory", health.of_memory(host, said=said("memory")))
        self._risk("disk", health.too_small(host, self._save, self._folder))
        if self._status.step is None or self._status.step > (self._status.durable_step or 0):  # there is work to lose
            self._risk("checkpoint", self._durables.late(time.monotonic()))

    def _risk(self, reason: Reason, words: str) -> None:
        if words:
            self._reach.risk(reason, words)
        else:
            self._reach.no_risk(reason)

    # -- the clock

    async def _keep_clock(self) -> None:
        await asyncio.sleep(CLOCK_FIRST_S)
        while True:
            ahead = await self._store_ahead_s()
            if ahead is not None:
                found = health.of_clock(ahead)
                self._health.now("clock", found)
                refused = abs(ahead) > health.REFUSED_SKEW_S
                self._risk("clock", f"{found[0].words}: stores refuse what it signs" if refused else "")
            await asyncio.sleep(CLOCK_S)

    async def _store_ahead_s(self) -> float | None:
        """Seconds by which the store's clock is ahead of ours, told by the time that our newest beat bears there."""
        key = beat_key(self._spec.name, self._status.epoch)
        for _ in range(_TRIES):
            put = self._status.beat_put
            try:
                entries = await self._store.list(key) if put else []
            except StoreError:
                return None
            if put and put == self._status.beat_put and entries and entries[0].modified:
                return health.skew(*put, entries[0].modified)
            await asyncio.sleep(LOOK_S)
        return None

    # -- GPUs

    async def _judge_gpus(self) -> None:
        found = self._gpus.newest
        if found is None or not found.driver:
            return
        silent = [Trouble("gpu", "warn", "the GPU driver does not answer any more")] if self._gpus.silent else []
        if found is not self._sampled:
            self._sampled, self._found_faults = found, self._gpu_faults.of(found)
        faults = self._found_faults
        own = set(await within(self._training.members) or ())
        self._used_gpus |= {one.uuid for one in found.gpus if own & set(one.pids)}
        named = [
            Trouble("gpu", "fatal" if fault.fatal else "warn", f"{fault.uuid[:12]}: {fault.words}",
                    f"{fault.uuid} {fault.kind}")
            for fault in faults
        ]  # fmt: skip
        self._health.now("gpu", [*silent, *named])
        for fault in faults:
            if fault.fatal and self._is_ours(fault.uuid):
                self._fault("gpu_fault", f"{fault.uuid[:12]}: {fault.words}")

    def _is_ours(self, uuid: str) -> bool:
        """The GPU is the training's; where its processes are not to be seen on any, all are those that the run asked
        for."""
        return uuid in self._used_gpus if self._used_gpus else bool(self._spec.gpu)

    def _gpu_figures(self) -> list[dict[str, Any]]:
        found = self._gpus.newest
        return gpu.figures(found.gpus) if found is not None else []


_UNKNOWN = Host(None, None, None, None, None, None, None)


def figures(progress: Progress, host: Host, gpus: list[dict[str, Any]]) -> dict[str, Any]:
    """The fields of a ``metrics`` event; what is not known is left out."""
    said = {"lr": progress.lr, "grad_norm": progress.grad_norm, "throughput": progress.throughput}
    found: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if progress.throughput is not None and progress.unit:
        found["unit"] = progress.unit
    machine = {name: value for name, value in vars(host).items() if value is not None}
    if "disk_rate" in machine:
        machine["disk_rate"] = round(machine["disk_rate"])
    return {**found, "host": machine, **({"gpu": gpus} if gpus else {})}
