"""Watches that a training goes on making steps; where it does not, collects where it stands, then acts by policy."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from vl_agent import evidence, hide, standstill
from vl_agent.evidence import Look, within
from vl_agent.metrics.training_log import TrainingLog
from vl_agent.reach import Reach
from vl_agent.standstill import Stage, Stillness, Watchdog

TICK_S = 1.0
AGAIN_S = 20.0
"""Between looks at a training that is suspected: its stacks say whether it stands still or works."""
STEPLESS_S = 900.0
"""A training of which no step was seen for so long is not watched, and that is said."""
_LOG_LINES = 20
_MOST_ENTRIES = 500
_PRINTING_S = 0.5

Tell = Callable[..., None]
Signature = tuple[int, int, int]


class HangWatch:
    """Of one running command. ``hung`` is called once, when it is sure, where the policy is to restart."""

    def __init__(
        self, *, pids: Callable[[], list[int]], log: TrainingLog, checkpoints: Path, tell: Tell, reach: Reach,
        secrets: Collection[str], gpus: Callable[[], list[dict[str, Any]]], hung: Callable[[str], None] | None,
    ) -> None:  # fmt: skip
        """``pids``: the training's processes (it may block); ``gpus``: their newest figures; ``hung`` None: a hang is
        reported and nothing else."""
        self._pids, self._log, self._checkpoints = pids, log, checkpoints
        self._tell, self._reach, self._secrets, self._gpus, self._hung = tell, reach, secrets, gpus, hung
        self._dog = Watchdog()
        self._step: int | None = None
        self._stage: Stage = ""
        self._since = 0.0
        self._seen: Look | None = None
        self._stillness: Stillness | None = None
        self._files: Signature | None = None

    def step(self, step: int) -> None:
        """A step was seen; the same one again is none."""
        if step != self._step:
            self._step = step
            self._dog.step(time.monotonic())

    def active(self) -> None:
        """It does something else than steps."""
        self._dog.excuse(time.monotonic())

    async def run(self) -> None:
        """Until cancelled."""
        began = last = time.monotonic()
        told_off = False
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            if now - last > 5 * TICK_S + 5:  # this machine stood still, or this process did
                self._dog.excuse(now)
            last = now
            if self._dog.silent_s(now) is not None:
                await self._look(now)
            elif now - began > STEPLESS_S and not told_off:
                told_off = True
                self._tell("warning", text="the script tells and prints no steps: a hang of it would not be seen")

    # ------------------------------------------------------------------------------------------------------- inside

    async def _look(self, now: float) -> None:
        silent = self._dog.silent_s(now) or 0.0
        if silent > self._dog.limit_s / 2 and await self._saves():
            self._dog.excuse(now)
            silent = 0.0
        stage = standstill.stage(now, silent, self._dog.limit_s, self._stillness)
        if not stage:
            self._over(now)
        elif not self._stage:
            await self._suspect(now, silent)
        elif stage == "confirmed" and self._stage != "confirmed":
            await self._confirm(silent)
        elif self._seen is not None and now - self._seen.at >= AGAIN_S:
            await self._look_again(now)

    async def _suspect(self, now: float, silent: float) -> None:
        look = await self._evidence()
        if look.paused:
            self._dog.excuse(now)
            return
        self._stage, self._since, self._seen = "suspected", now - silent, look
        self._stillness = Stillness(now, blind=False)
        self._reach.risk("hang", self._words(silent, look))
        self._told("suspected", silent, look)

    async def _look_again(self, now: float) -> None:
        look, before, known = await self._evidence(), self._seen, self._stillness
        assert before is not None
        assert known is not None
        if look.paused:
            self._dog.excuse(now)
        still = evidence.stands_still(before, look)
        self._seen = look
        self._stillness = Stillness(known.since if still and not known.blind else now, blind=still is None)

    async def _confirm(self, silent: float) -> None:
        look = await self._evidence()
        ends = self._hung is not None  # then a signal can do no more harm
        if ends and not look.frames and await within(lambda: bool(evidence.ask_for_stacks(self._pids()))):
            await asyncio.sleep(_PRINTING_S)
        self._stage = "confirmed"
        words = self._words(silent, look)
        self._reach.risk("hang", words)
        self._told("confirmed", silent, look)
        if self._hung is not None:
            self._hung(words)

    def _over(self, now: float) -> None:
        if self._stage:
            self._tell("hang", stage="over", step=self._step, silent_s=round(now - self._since, 1))
            self._reach.no_risk("hang")
            self._stage, self._seen, self._stillness = "", None, None

    async def _evidence(self) -> Look:
        pids = await within(self._pids) or []
        return await evidence.look(pids)

    def _told(self, stage: Stage, silent: float, look: Look) -> None:
        self._tell(
            "hang", stage=stage, step=self._step, silent_s=round(silent, 1), usual_s=round(self._dog.usual_s, 3),
            tool=look.tool, where=self._hidden(look.where), stacks=self._hidden(look.stacks),
            log=[self._hidden(line) for line in self._log.last_lines(_LOG_LINES)], gpu=self._gpus(),
        )  # fmt: skip

    def _words(self, silent: float, look: Look) -> str:
        usual = f", usually {self._dog.usual_s:.3g} s" if self._dog.usual_s else ""
        where = f", it stands in {self._hidden(look.where)}" if look.where else ""
        return f"no step for {silent:.0f} s{usual}{where}"

    def _hidden(self, text: str) -> str:
        return hide.without(text, self._secrets)

    async def _saves(self) -> bool:
        """Whether the checkpoint folder has changed since the last time: a save is under way."""
        before, self._files = self._files, await within(lambda: signature(self._checkpoints))
        return before is not None and self._files is not None and before != self._files


def signature(folder: Path) -> Signature:
    """Of the newest files in a folder and in those below it: how many, the newest change, all their bytes."""
    number, newest, size = 0, 0, 0
    todo = [(folder, 0)]
    while todo and number < _MOST_ENTRIES:
        place, depth = todo.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    stat = entry.stat(follow_symlinks=False)
                    number += 1
                    newest = max(newest, stat.st_mtime_ns)
                    if entry.is_dir(follow_symlinks=False):
                        todo += [(Path(entry.path), depth + 1)] if depth < 2 else []
                    else:
                        size += stat.st_size
        except OSError:
            continue
    return number, newest, size
