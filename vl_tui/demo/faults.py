"""Makes the planned faults, each at its observed step, and waits until the run has got over it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from vl_agent.protocol import ENDED_STATES, Event, Head

from vl_tui.demo.plan import Fault
from vl_tui.demo.report import FaultMade

LOOK_S = 0.25
"""How often the store is looked at while a moment is waited for."""
RECOVER_S = 120.0
"""A run that has not got over a fault by then never will: the demo says so and goes on to its end."""
NOTICE_S = 15.0
"""The window between a notice and the reclaim."""
ZOMBIE_S = 30.0
"""How long a healed box may take to try its commit and be refused, before its provider's word comes back too."""


class Lab(Protocol):
    """What breaks: the embedded fleet's own levers."""

    async def reclaim(self, name: str, notice_s: float) -> None: ...
    async def partition(self, name: str) -> None: ...
    async def heal(self, name: str, what: str) -> None: ...


@dataclass(frozen=True)
class Seen:
    """The run as the store shows it at one moment."""

    head: Head
    events: Sequence[Event]

    @property
    def ended(self) -> bool:
        return self.head.state in ENDED_STATES

    def steps(self, epoch: int) -> list[int]:
        """Steps that the attempt told; for a script that tells none, the steps of its checkpoints."""
        told = self._numbers("step", epoch)
        return told or self._numbers("saved", epoch)

    def durable_times(self, epoch: int) -> list[float]:
        return [e.t for e in self.events if e.kind == "durable" and e.epoch == epoch]

    def trains(self, epoch: int) -> bool:
        return any(e.kind == "step" and e.epoch == epoch for e in self.events) or any(
            e.kind == "started" and e.epoch == epoch for e in self.events
        )

    def _numbers(self, kind: str, epoch: int) -> list[int]:
        numbers = (e.fields.get("step") for e in self.events if e.kind == kind and e.epoch == epoch)
        return [number for number in numbers if type(number) is int]


class World(Protocol):
    """What the faults need of the demo's world."""

    @property
    def lab(self) -> Lab: ...
    async def look(self) -> Seen: ...
    async def box_name(self, launch: int) -> str: ...
    async def lives(self, box: str) -> bool: ...
    async def controller_pid(self) -> int | None: ...
    def ensure_controller(self) -> Awaitable[None]: ...


Say = Callable[[str], None]


async def make_faults(
    world: World, plan: Sequence[Fault], made: list[FaultMade], keep: Callable[[], None], say: Say
) -> None:
    """Make each fault of ``plan`` that is not in ``made`` yet. ``keep`` keeps that list, called when a fault is over:
    a demo that is killed while one lasts makes it again, and so has its figures."""
    done = {fault.kind for fault in made}
    for fault in plan:
        if fault.kind in done:
            continue
        seen = await _moment(world, fault)
        if seen is None:
            say(f"{fault.kind}: the run ended before this fault's turn")
            return
        fault_made = await _make(world, fault, seen, made, say)
        if not await _until(world, partial(_is_over, fault_made), RECOVER_S):
            say(f"{fault.kind}: the run has not come back within {RECOVER_S:.0f} s")
        elif fault.kind == "partition":
            await _heal(world, fault_made, say)
        keep()


async def _moment(world: World, fault: Fault) -> Seen | None:
    """Wait for the fault's place; None when the run ended first. The box must be one that lives: where the demo was
    killed, the head still shows an attempt whose box ended with it."""
    while True:
        seen = await world.look()
        if seen.ended:
            return None
        epoch = seen.head.epoch
        trains = seen.head.state == "running" and seen.head.checkpoint is not None and seen.trains(epoch)
        if trains and await world.lives(await world.box_name(seen.head.launch)):
            if fault.at_step is not None:
                if max(seen.steps(epoch), default=0) >= fault.at_step:
                    return seen
            elif len(seen.durable_times(epoch)) >= fault.after_saves:
                await asyncio.sleep(fault.place * 2.0)
                return await world.look()
        await asyncio.sleep(LOOK_S)


async def _make(world: World, fault: Fault, seen: Seen, made: list[FaultMade], say: Say) -> FaultMade:
    head = seen.head
    box = "" if fault.kind == "controller" else await world.box_name(head.launch)
    step = max(seen.steps(head.epoch), default=None)
    pid = await world.controller_pid() if fault.kind == "controller" else None
    fault_made = FaultMade(fault.kind, time.time(), head.epoch, step, box)
    made.append(fault_made)
    say(f"{fault.kind} at step {step} of attempt {head.epoch}{f' on {box}' if box else ''}")
    if fault.kind == "notice":
        await world.lab.reclaim(box, NOTICE_S)
    elif fault.kind == "kill":
        await world.lab.reclaim(box, 0)
    elif fault.kind == "partition":
        await world.lab.partition(box)
    else:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        await world.ensure_controller()
    return fault_made


def _is_over(fault: FaultMade, now: Seen) -> bool:
    """The run does steps again: in the next attempt, or, after the controller's death, with another controller. Over,
    too, when the run has ended."""
    if now.ended:
        return True
    if fault.kind == "controller":
        return any(e.kind == "controller" and e.t > fault.at for e in now.events)
    return now.head.epoch > fault.epoch and now.head.state == "running" and now.trains(now.head.epoch)


async def _heal(world: World, fault: FaultMade, say: Say) -> None:
    """The link comes back first: the box that was cut off must itself find out that it is fenced. The provider's word
    follows, as a real provider's does, a little later."""
    say(f"partition heals: {fault.box} can reach the store again")
    await world.lab.heal(fault.box, "link")
    refused = await _until(
        world, lambda now: any(e.kind in ("commit_refused", "fenced") and e.epoch == fault.epoch for e in now.events),
        ZOMBIE_S,
    )  # fmt: skip
    say(f"{fault.box}: its commit was refused" if refused else f"{fault.box}: not heard of within {ZOMBIE_S:.0f} s")
    await world.lab.heal(fault.box, "word")


async def _until(world: World, true: Callable[[Seen], bool], limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while not true(await world.look()):
        if time.monotonic() > end:
            return False
        await asyncio.sleep(LOOK_S)
    return True
