"""All sources of notices of this box, started by one call: for a launched box and for ``vl-agent run`` alike."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence

from vl_agent import recognise
from vl_agent.notices import WINDOW_S, Ear, aws, azure, command, gcp, signals, slurm
from vl_agent.recognise import Place

_ACKNOWLEDGED_S = 3.0


class Watches:
    """Listens from its making until ``close``. ``place`` is what the box was recognised as."""

    def __init__(self, chosen: Sequence[str], ear: Ear, place: Place, *, ask: bool) -> None:
        """``chosen``: sources by name; ``auto``: those of the place. SIGTERM is heard in every case: an agent that it
        ended would leave a training unwatched. ``ask``: a box that nothing tells about is looked up at the link-local
        address."""
        self.place = place
        self._ear = ear
        self._acknowledgement = azure.Acknowledgement()
        self._stops: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.names: list[str] = []
        """Of the sources that are listened to."""
        auto = "auto" in chosen
        for name in dict.fromkeys(["signal", *(place.notices if auto else ()), *chosen]):
            self._start(name)
        if auto and ask and not place.provider:
            self._tasks.append(asyncio.create_task(self._look_up(), name="recognise"))

    async def _look_up(self) -> None:
        found = await recognise.by_metadata()
        if found is not None:
            self.place = Place(found.provider, found.how, "", found.notices, end=self.place.end,
                               command=self.place.command)  # fmt: skip
            for name in found.notices:
                self._start(name)

    def _start(self, name: str) -> None:
        """Begin to listen to one source, unless it is listened to already. An unknown name is told as trouble."""
        if name in self.names or name == "auto":
            return
        ear, window_s = self._ear, self.place.window_s
        if name == "signal":
            source = self.place.provider if self.place.signal_window_s is not None else "signal"
            self._stops.append(signals.listen(ear, source, (signal.SIGTERM,), lambda: self.place.signal_window_s))
        elif name == "slurm":
            self._stops.append(slurm.listen_to_user(ear, window_s))
        elif name == "aws":
            self._task(name, aws.watch(self._address("AWS_EC2_METADATA_SERVICE_ENDPOINT", aws.address()), ear))
        elif name == "gcp":
            window = WINDOW_S["gcp"] if window_s is None else window_s
            self._task(name, gcp.watch(self._address("GCE_METADATA_HOST", gcp.address()), ear, window))
        elif name == "azure":
            self._task(name, azure.watch(recognise.metadata_address(), ear, self._acknowledgement))
        elif name.startswith("command:"):
            self._task(name, command.watch(name.partition(":")[2], ear))
        else:
            ear.trouble(name[:40], "no such source of notices")
            return
        self.names.append(name)

    def _address(self, variable: str, usual: str) -> str:
        return usual if os.environ.get(variable) else recognise.metadata_address()

    def _task(self, name: str, watch: object) -> None:
        self._tasks.append(asyncio.create_task(watch, name=f"notices: {name}"))  # type: ignore[arg-type]

    async def durable(self) -> None:
        """All that was saved is in the store: who waits for that, to let the reclaim happen, is told."""
        self._acknowledgement.durable.set()
        if self._acknowledgement.wanted:
            waiting = asyncio.create_task(self._acknowledgement.sent.wait())
            await asyncio.wait({waiting}, timeout=_ACKNOWLEDGED_S)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def close(self) -> None:
        for stop in self._stops:
            stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
