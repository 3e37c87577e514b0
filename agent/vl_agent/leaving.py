"""How a training is ended before its own end: because somebody said stop, or because the box will be taken.

On a notice the script saves afresh and stops where all of that fits into the window; else it trains on while what is on
its way becomes durable, and is ended just in time for the run to be released before the box goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vl_agent import control
from vl_agent.budget import MARGIN_S, Measures, choose, margin_s
from vl_agent.notices import Notice
from vl_agent.protocol import Cause
from vl_agent.status import Status
from vl_agent.training import Training

LOOK_S = 0.1
STOP_GRACE_S = 30.0
"""A command that was told to save and stop, and can't by itself, gets so long after SIGTERM."""
NOTICE_GRACE = 0.4
"""On a notice it gets this share of what is kept free of the window, and half a second at least."""
HELPER_GRACE_S = 120.0
"""A helper that was told to save and stop finishes its step and its save within this."""
UNKNOWN_WINDOW_S = 120.0
"""A notice that names no moment is taken to end the box after so long at the latest."""


class Uploads(Protocol):
    """What of the checkpoint path matters here."""

    @property
    def pending(self) -> object | None:
        """A save on its way into the store."""

    def hurry(self) -> None:
        """From now on the uploads go before the training's speed."""


class Leaving:
    """Told to once, it ends the training once. Everything here is called on the loop."""

    def __init__(
        self, training: Training, folder: Path, status: Status, measures: Measures, tell: Callable[..., None],
        wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._training, self._folder, self._status, self._measures = training, folder, status, measures
        self._tell, self._wall = tell, wall
        self.uploads: Uploads | None = None
        self.helper = False
        """The script can be told to save and stop."""
        self._running = False
        self._told: tuple[str, float | None, bool] | None = None
        self._notice: Notice | None = None
        self._choice = ""
        self._margin_s = MARGIN_S
        """Kept free of the window."""
        self._over = asyncio.Event()
        self._deciding: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    @property
    def told(self) -> bool:
        """It was said that the training ends."""
        return self._told is not None

    @property
    def why(self) -> str:
        return self._told[0] if self._told else ""

    @property
    def cause(self) -> Cause:
        return "notice" if self.why == "notice" else "stopped"

    @property
    def noticed(self) -> bool:
        return self._notice is not None

    @property
    def had(self) -> Notice | None:
        """The notice that counts."""
        return self._notice

    # ------------------------------------------------------------------------------------- what becomes of the command

    def began(self) -> None:
        """The command runs: what was said before counts now."""
        self._running = True
        if self.noticed and self.uploads is not None:
            self.uploads.hurry()
        if self._told is not None:
            self._end(*self._told)

    def over(self) -> None:
        """The command has ended."""
        self._running = False
        self._over.set()

    async def close(self) -> None:
        for task in (self._deciding, self._stopping):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    # ------------------------------------------------------------------------------------------------- what it is told

    def stop(self, why: str, *, save: bool) -> None:
        """End the training; ``save``: let it save first where it can."""
        self._end(why, None, save)

    def notice(self, notice: Notice) -> None:
        """The provider will take this box. Of several notices the nearest moment counts."""
        before, known = self._notice, self._status.notice_deadline
        if before is not None and (notice.deadline is None or (known is not None and notice.deadline >= known)):
            return
        self._notice = notice
        deadline = notice.deadline or known or self._wall() + UNKNOWN_WINDOW_S
        self._status.notice_deadline = deadline
        window = deadline - self._wall()
        self._margin_s = margin_s(window)
        if before is None:
            self._tell("notice", source=notice.source, window_s=round(window, 1), detail=notice.detail)
        if self.uploads is not None:
            self.uploads.hurry()
        if not self._running:
            self._told = self._told or ("notice", deadline, True)
        elif not self._decided() and self._deciding is None:
            self._deciding = asyncio.create_task(self._keep_deciding())

    def withdrawn(self, source: str, detail: str) -> None:
        """What ``source`` gave notice of will not happen. A script that was told to stop stops all the same."""
        if self._notice is None or self._notice.source != source:
            return
        self._tell("notice_withdrawn", source=source, detail=detail)
        if self._told is None:
            self._notice, self._choice, self._status.notice_deadline = None, "", None

    # ------------------------------------------------------------------------------------------------------- inside

    async def _keep_deciding(self) -> None:
        """What is on its way becomes durable, a helper shows up, time runs out: each may change what is best."""
        while self._notice is not None and not self._decided():  # noqa: ASYNC110 - time itself is what it waits for
            await asyncio.sleep(LOOK_S)
        self._deciding = None

    def _decided(self) -> bool:
        """Choose by what is known now. True: the training is being ended, or has ended."""
        notice, deadline = self._notice, self._status.notice_deadline
        if self._told is not None or not self._running or notice is None or deadline is None:
            return True
        left = None if notice.deadline is None else deadline - self._wall()
        pending = self.uploads is not None and self.uploads.pending is not None
        seen = self._measures.measured(time.monotonic(), pending=pending)
        found = choose(left, seen, helper=self.helper, margin_s=self._margin_s)
        if found.choice != self._choice:
            self._choice = found.choice
            self._tell("notice_save", choice=found.choice, why=found.why, **found.figures)
        if found.choice == "fresh":
            self._end("notice", deadline, save=True)
        elif self._wall() >= deadline - self._margin_s:
            self._end("notice", deadline, save=False)
        return self._told is not None

    def _end(self, why: str, deadline: float | None, save: bool) -> None:
        self._told = self._told or (why, deadline, save)
        if self._running and self._training.pid and self._stopping is None:
            self._tell("stopping", why=why)
            self._status.phase = "draining"
            self._status.detail = f"{why}: {'saves and stops' if save and self.helper else 'stops'}"
            self._stopping = asyncio.create_task(self._stop(why, deadline, save=save))

    async def _stop(self, why: str, deadline: float | None, *, save: bool) -> None:
        grace_s = max(0.5, NOTICE_GRACE * self._margin_s)
        if save and self.helper and self._told_to_save(why, deadline):
            limit = HELPER_GRACE_S if deadline is None else max(1.0, deadline - self._wall() - grace_s)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._over.wait(), limit)
        if self._running:
            await self._training.end(why, grace_s=STOP_GRACE_S if deadline is None else grace_s)

    def _told_to_save(self, why: str, deadline: float | None) -> bool:
        try:
            control.write_notice(self._folder, why, deadline)
        except OSError as error:
            self._tell("warning", text=f"the script can't be told to save: {error.strerror}")
            return False
        return True
