"""What looks at a training from outside while it runs: the figures in its output, the machine's, its health, its steps.

Nothing in here may hurt the training or the attempt: a watcher that fails is said and is gone, the rest goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any

from vl_agent.hang import HangWatch
from vl_agent.metrics.host import Host, HostWatch
from vl_agent.metrics.progress import Progress
from vl_agent.metrics.training_log import TrainingLog
from vl_agent.protocol import Cause, RunSpec
from vl_agent.reach import Reach
from vl_agent.told import Step
from vl_agent.training import Training

LOOK_S = 0.5
"""Between looks at the log: so often at most is a step read in it told."""
MEASURE_S = 5.0
_LAST_LOOKS = 10

Tell = Callable[..., None]


class Watchers:
    """Of one attempt. ``run`` while its command runs; ``step`` and ``tell`` as it goes on."""

    def __init__(
        self, spec: RunSpec, training: Training, *, log: Path, checkpoints: Path, tell: Tell, reach: Reach,
        secrets: Collection[str], read_step: Callable[[Step], None], fault: Callable[[Cause, str], None],
    ) -> None:  # fmt: skip
        """``read_step`` gets the steps that the log says, where nobody tells them directly; ``fault`` ends the
        attempt."""
        self._tell, self._read_step = tell, read_step
        self._log = TrainingLog(log)
        self._host = HostWatch(checkpoints)
        self._hang = HangWatch(
            pids=training.members, log=self._log, checkpoints=checkpoints, tell=tell, reach=reach, secrets=secrets,
            gpus=list, hung=(lambda words: fault("hang", words)) if spec.on_hang == "restart" else None,
        )  # fmt: skip
        self._directly = False
        self._progress = Progress()
        self._told: tuple[int | None, float | None] = (None, None)

    async def run(self) -> None:
        """Until cancelled."""
        watches = {"reading": self._keep_reading, "measuring": self._keep_measuring, "hang watch": self._hang.run}
        tasks = [asyncio.create_task(self._unharmed(name, watch)) for name, watch in watches.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def step(self, step: Step) -> None:
        """A step that was told directly: from now on the log's are not needed."""
        self._directly = True
        self._hang.step(step.step)

    def tell(self, kind: str, **fields: Any) -> None:
        """An event of the checkpoint path: into the journal, and seen on its way."""
        self._tell(kind, **fields)

    async def last_look(self) -> None:
        """The command has ended: what it printed last counts too."""
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

    async def _keep_measuring(self) -> None:
        while True:
            host = await asyncio.to_thread(self._host.look)
            self._tell("metrics", **figures(self._progress, host))
            await asyncio.sleep(MEASURE_S)


def figures(progress: Progress, host: Host) -> dict[str, Any]:
    """The fields of a ``metrics`` event; what is not known is left out."""
    said = {"lr": progress.lr, "grad_norm": progress.grad_norm, "throughput": progress.throughput}
    found: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if progress.throughput is not None and progress.unit:
        found["unit"] = progress.unit
    machine = {name: value for name, value in vars(host).items() if value is not None}
    if "disk_rate" in machine:
        machine["disk_rate"] = round(machine["disk_rate"])
    return {**found, "host": machine}
