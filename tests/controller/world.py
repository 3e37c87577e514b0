"""A small world in one process: a virtual clock, a store in memory, providers and boxes that follow a script.

The controller in it is the real one, turned by hand. It can be killed at any point at which it touches the world: every
call that changes something passes a gate before and after, and a dead controller passes none.
"""

from __future__ import annotations

import asyncio
import builtins
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from vl_agent import head as heads
from vl_agent import protocol
from vl_agent.protocol import Beat, CheckpointPolicy, Event, Head, Intent, Kept, LaunchRecord, RunSpec, encode
from vl_agent.store import Entry, Exists, Moved, NotFound, Stored, StoreError

from vl_tui.controller import lease
from vl_tui.controller.controller import Controller
from vl_tui.controller.links import Heard, LinkDown, Reply
from vl_tui.controller.ports import Ports
from vl_tui.domain.box import Box, Need, Offer, SshAddress
from vl_tui.providers.base import Caps, Launch, NoCapacity, Transient, Unsure
from vl_tui.store import journals

FLEET = "test"
TICK_S = 0.5
SAVE_EVERY = 5


class Crash(BaseException):
    """The controller was killed here."""


class VirtualClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def wall(self) -> float:
        return 1_800_000_000 + self.now

    def mono(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            await asyncio.sleep(0)


class Gate:
    """Counts the points at which the controller touches the world, and kills it at one of them."""

    def __init__(self, crash_at: int | None = None) -> None:
        self.crash_at, self.passed, self.dead = crash_at, 0, False
        self.trail: list[str] = []

    def point(self, label: str) -> None:
        if self.dead or self.passed == self.crash_at:
            self.dead = True
            raise Crash(label)
        self.passed += 1
        self.trail.append(label)


class MemoryStore:
    """The store's contract in memory. ``gate`` is the controller's; agents use a view without one."""

    def __init__(self, objects: dict[str, tuple[bytes, str]], gate: Gate | None = None) -> None:
        self.url, self._objects, self._gate = "memory://", objects, gate
        self.reachable = True
        self._versions = itertools.count(len(objects) + 1)

    def _write(self, key: str, data: bytes) -> str:
        version = f"{next(self._versions)}-{random.getrandbits(32)}"
        self._objects[key] = (data, version)
        return version

    def _gated(self, label: str, act: Callable[[], Any]) -> Any:
        if not self.reachable:
            raise StoreError("memory://: out of reach")
        if self._gate is None or protocol.VIEW_KEY in label:
            return act()
        self._gate.point(f"before {label}")
        found = act()
        self._gate.point(f"after {label}")
        return found

    async def put(self, key: str, data: bytes) -> str:
        return str(self._gated(f"put {key}", lambda: self._write(key, data)))

    async def create(self, key: str, data: bytes) -> str:
        def act() -> str:
            if key in self._objects:
                raise Exists(key)
            return self._write(key, data)

        return str(self._gated(f"create {key}", act))

    async def swap(self, key: str, data: bytes, version: str) -> str:
        def act() -> str:
            if key not in self._objects or self._objects[key][1] != version:
                raise Moved(key)
            return self._write(key, data)

        return str(self._gated(f"swap {key}", act))

    async def get(self, key: str) -> Stored:
        if not self.reachable:
            raise StoreError("memory://: out of reach")
        if key not in self._objects:
            raise NotFound(key)
        return Stored(*self._objects[key])

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        return (await self.get(key)).data[start:end]

    async def folders(self, prefix: str) -> list[str]:
        if not self.reachable:
            raise StoreError("memory://: out of reach")
        rest = (key.removeprefix(prefix) for key in self._objects if key.startswith(prefix))
        return sorted({name.split("/")[0] for name in rest if "/" in name})

    async def list(self, prefix: str, after: str = "") -> builtins.list[Entry]:
        if not self.reachable:
            raise StoreError("memory://: out of reach")
        keys = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
        return [Entry(key, len(self._objects[key][0]), self._objects[key][1]) for key in keys]

    async def delete(self, *keys: str) -> None:
        for key in keys:
            self._objects.pop(key, None)

    async def put_part(self, key: str, data: Any, *, limit_s: float) -> None:
        raise NotImplementedError

    async def get_part(self, key: str, size: int, take: Any) -> None:
        raise NotImplementedError

    async def put_file(self, key: str, path: Any, *, sent: Any = None) -> None:
        raise NotImplementedError

    async def get_file(self, key: str, path: Any, size: int) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        return


@dataclass
class Machine:
    """One box and the agent on it."""

    box: Box
    record: protocol.LaunchRecord | None = None
    born_at: float = 0.0
    ready_at: float = 0.0
    ends_at: float | None = None
    """When its provider takes it (after a notice)."""
    link_cut: bool = False
    store_cut: bool = False
    word_cut: bool = False
    supervisor_dead: bool = False
    phase: protocol.Phase | None = None
    """None: no supervisor was started."""
    prepared_at: float = 0.0
    counter: int = 0
    epoch: int = 0
    holder: str = ""
    step: int = 0
    durable: int = 0
    noticed: float | None = None
    drained_at: float = 0.0
    stopping: str = ""
    refused_commits: int = 0
    pending: list[Event] = field(default_factory=list)
    segment: int = 0
    ears: list[Heard] = field(default_factory=list)
    run: str = ""
    launch: int = 0

    @property
    def alive(self) -> bool:
        return self.box.state in ("launching", "running")


class ScriptedProvider:
    def __init__(self, world: World, name: str, offers: Sequence[Offer], *, lag_s: float = 0.0) -> None:
        self.name, self.caps, self._world, self._offers = name, Caps(spot=True, lag_s=lag_s), world, offers
        self.calls: list[str] = []
        self.full: set[str] = set()
        """Places without capacity."""
        self.unsure_once: set[str] = set()
        """``lost``: the next launch happens, its reply is lost. ``late``: and it is not listed before the lag."""
        self.gate: Gate | None = None

    def _point(self, label: str) -> None:
        if self.gate is not None:
            self.gate.point(f"{label} at {self.name}")

    async def check(self) -> str:
        return "scripted"

    async def offers(self, need: Need) -> list[Offer]:
        return list(self._offers)

    async def launch(self, launch: Launch) -> Box:
        self._point(f"before launch {launch.name}")
        found = await self.find(launch.name)
        if found:
            return found[0]
        self.calls.append(launch.name)
        if launch.offer.place in self.full:
            raise NoCapacity("none left", place=launch.offer.place)
        machine = self._world.machine(self.name, launch)
        if "lost" in self.unsure_once:
            self.unsure_once.discard("lost")
            raise Unsure("no answer")
        self._point(f"after launch {launch.name}")
        return machine.box

    def _mine(self) -> list[Machine]:
        return [m for m in self._world.machines.values() if m.box.tags["provider"] == self.name]

    def _seen(self) -> list[Machine]:
        """Living boxes that are listed already: a young one is not, for as long as the provider lags."""
        return [m for m in self._mine() if m.alive and self._world.clock.now - m.born_at >= self.caps.lag_s]

    async def find(self, name: str) -> list[Box]:
        return [m.box for m in self._seen() if m.box.name == name]

    async def describe(self, ids: Sequence[str]) -> dict[str, Box | None]:
        told: dict[str, Box | None] = {}
        for box_id in ids:
            machine = self._world.machines[box_id]
            told[box_id] = replace(machine.box, state="unknown") if machine.word_cut else machine.box
        return told

    async def ours(self, fleet: str) -> list[Box]:
        return [m.box for m in self._seen()]

    async def terminate(self, box_id: str) -> None:
        machine = self._world.machines[box_id]
        if machine.word_cut:
            raise Transient(f"{box_id} can't be reached")
        self._point(f"before terminate {machine.box.name}")
        await self._world.check_end_record(machine)
        machine.box = replace(machine.box, state="gone")
        self._point(f"after terminate {machine.box.name}")

    async def close(self) -> None:
        return


class ScriptedLink:
    def __init__(self, world: World, machine: Machine, ear: Heard, record: LaunchRecord | None, gate: Gate) -> None:
        self._world, self._machine, self._ear, self._record, self._gate = world, machine, ear, record, gate

    async def run(self) -> None:
        machine = self._machine
        while machine.link_cut or machine.box.state != "running":
            await asyncio.sleep(0)
        if self._record is not None and (machine.phase in (None, "ended") or machine.supervisor_dead):
            self._world.supervise(machine, self._record)
        machine.ears.append(self._ear)
        self._ear.link("attached", "")
        try:
            await asyncio.Event().wait()
        finally:
            machine.ears.remove(self._ear)

    async def command(self, **fields: Any) -> Reply:
        if self._machine.link_cut or self._ear not in self._machine.ears:
            raise LinkDown("no channel")
        self._gate.point(f"before {fields['command']} to {self._machine.box.name}")
        reply = await self._world.commanded(self._machine, fields)
        self._gate.point(f"after {fields['command']} to {self._machine.box.name}")
        return reply


class World:
    """Everything but the controller, and the controller, which may be killed and replaced."""

    def __init__(self, *, seed: int = 0, lag_s: float = 0.0, crash_at: int | None = None) -> None:
        self.clock, self.dice = VirtualClock(), random.Random(seed)
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.store = MemoryStore(self.objects)
        self.machines: dict[str, Machine] = {}
        self.providers = {
            "nimbus": ScriptedProvider(
                self, "nimbus", [_offer("nimbus", "a1", 0.3), _offer("nimbus", "a2", 0.4)], lag_s=lag_s
            ),
            "aurora": ScriptedProvider(
                self, "aurora", [_offer("aurora", "b1", 0.5), _offer("aurora", "b1", 1.5, "on_demand")], lag_s=lag_s
            ),
        }
        self.gate = Gate(crash_at)
        self.controller: Controller | None = None
        self.controllers = 0
        self.said: list[str] = []
        self.total_steps = 60
        self.setup_s = 2.0
        self.drain_s = 0.0
        """What a box takes to save after a notice."""
        self.missing: tuple[str, ...] = ()
        self.fails: Callable[[Machine], bool] = lambda machine: False
        """Whether a training's command fails now."""
        self._ids = itertools.count(1)
        self._ticks = 0

    # -- the controller --

    async def start_controller(self) -> Controller:
        self.controllers += 1
        gated = MemoryStore(self.objects, self.gate)
        for provider in self.providers.values():
            provider.gate = self.gate
        held = await lease.acquire(
            gated, owner=f"host:{self.controllers}", host="boot", clock=self.clock, say=self.said.append
        )
        ports = Ports(
            fleet=FLEET, store=gated, providers=self.providers, connect=self._connect, clock=self.clock,
            public_key="ssh-ed25519 AAAA", key_path="/key", missing_secrets=lambda spec: self.missing,
            say=self.said.append, poll_s=1.0, beat_s=1.0, dice=random.Random(self.dice.random()),
        )  # fmt: skip
        self.controller = Controller(ports, held, idle_s=3.0)
        return self.controller

    def _connect(self, spec: RunSpec, record: LaunchRecord, box: Box, ear: Heard, *, supervise: bool) -> ScriptedLink:
        return ScriptedLink(self, self.machines[box.id], ear, record if supervise else None, self.gate)

    async def kill_controller(self) -> None:
        """As by SIGKILL: its tasks are gone, and nothing of it touches the world any more."""
        self.gate.dead = True
        if self.controller is not None:
            for keeper in self.controller.keepers.values():
                await keeper.close()
        self.controller, self.gate = None, Gate()

    async def turn(self) -> None:
        """One round of the controller; one that was killed is followed by another in the next."""
        try:
            if self.controller is None:
                await self.start_controller()
            assert self.controller is not None
            await self._round(self.controller.look())
            for name in self.providers:
                await self._round(self.controller.ask(name))
            if self._ticks % 10 == 0:
                await self._round(self.controller.sweep.round())
            for keeper in list(self.controller.keepers.values()):
                for _ in range(20):
                    if keeper.finished or not await keeper.step():
                        break
                    await asyncio.sleep(0)
            await self.controller.publish()
            await _settle()
        except Crash:
            pass
        if self.gate.dead:
            await self.kill_controller()

    async def _round(self, round_: Awaitable[object]) -> None:
        """As ``Controller._guarded``: a round that the store failed holds up no other."""
        with suppress(StoreError):
            await round_

    async def advance(self, seconds: float, until: Callable[[], bool] | None = None) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end and not (until is not None and until()):
            self.clock.now += TICK_S
            self._ticks += 1
            for machine in list(self.machines.values()):
                await self._live(machine)
            await self.turn()

    async def until(self, true: Callable[[], bool], limit_s: float = 300.0) -> None:
        await self.advance(limit_s, true)
        assert true(), "\n".join(self.said[-30:])

    async def close(self) -> None:
        await self.kill_controller()

    # -- what a person does --

    async def submit(self, name: str = "run", **fields: Any) -> RunSpec:
        spec = RunSpec(
            name,
            FLEET,
            "python train.py",
            CheckpointPolicy("ckpt"),
            total_steps=self.total_steps,
            grace_s=6.0,
            **fields,
        )
        await heads.submit(self.store, spec)
        return spec

    async def intend(self, action: protocol.IntentAction, *, epoch: int | None = None, **fields: Any) -> str:
        intent_id = f"i{next(self._ids)}"
        at = self.head().epoch if epoch is None else epoch
        intent = Intent(intent_id, "run", at, action, by="me", at=self.clock.wall(), **fields)
        await self.store.create(protocol.intent_key(intent_id), encode(intent))
        return intent_id

    def answer(self, intent_id: str) -> protocol.IntentDone | None:
        body = self.objects.get(protocol.intent_done_key(intent_id))
        return protocol.decode(protocol.IntentDone, body[0]) if body else None

    # -- what there is --

    def head(self, run: str = "run") -> Head:
        return protocol.decode(Head, self.objects[protocol.head_key(run)][0])

    async def events(self, run: str = "run") -> list[Event]:
        return await journals.read_events(self.store, run)

    def launch_records(self, run: str = "run") -> list[LaunchRecord]:
        keys = sorted(k for k in self.objects if k.startswith(protocol.launches_prefix(run)) and ".end." not in k)
        return [protocol.decode(LaunchRecord, self.objects[key][0]) for key in keys]

    def end_record(self, number: int, run: str = "run") -> protocol.LaunchEnd | None:
        body = self.objects.get(protocol.launch_end_key(run, number))
        return protocol.decode(protocol.LaunchEnd, body[0]) if body else None

    def living(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.alive]

    def holder(self) -> Machine:
        return next(m for m in self.machines.values() if m.run == "run" and m.epoch and m.epoch == self.head().epoch)

    def quiet(self) -> bool:
        """The run has ended, and a controller has nothing left to do for it."""
        controller = self.controller
        return (
            self.head().state in protocol.ENDED_STATES
            and not self.living()
            and controller is not None
            and all(keeper.finished for keeper in controller.keepers.values())
        )

    def training(self, step: int = 1) -> bool:
        head = self.head()
        return head.state == "running" and any(
            m.run == "run" and m.epoch == head.epoch and m.alive and m.step >= step for m in self.machines.values()
        )

    async def check_end_record(self, machine: Machine) -> None:
        """A box of a known run is never ended before its end record stands (protocol, rule 7)."""
        key = protocol.launch_end_key(machine.run, machine.launch)
        assert key in self.objects or protocol.spec_key(machine.run) not in self.objects, f"{key} is missing"

    # -- boxes --

    def machine(self, provider: str, launch: Launch) -> Machine:
        box = Box(
            f"{provider}-{next(self._ids)}", launch.name, launch.offer.place, launch.offer.market, "launching",
            launch.offer.usd_hour, self.clock.wall(), tags={**launch.tags, "provider": provider},
        )  # fmt: skip
        machine = Machine(box, born_at=self.clock.now, ready_at=self.clock.now + 3.0, run=launch.tags["vl-run"])
        machine.launch = int(launch.tags["vl-launch"])
        self.machines[box.id] = machine
        return machine

    def supervise(self, machine: Machine, record: LaunchRecord) -> None:
        machine.phase, machine.epoch, machine.holder = "preparing", 0, ""
        machine.supervisor_dead, machine.counter = False, 0
        machine.record, machine.prepared_at = record, self.clock.now + self.setup_s

    def preempt(self, machine: Machine, notice_s: float = 0.0) -> None:
        if notice_s:
            machine.noticed = machine.ends_at = self.clock.now + notice_s
        else:
            machine.box = replace(machine.box, state="preempted")

    def partition(self, machine: Machine, cut: bool = True) -> None:
        machine.link_cut = machine.store_cut = machine.word_cut = cut

    async def commanded(self, machine: Machine, fields: dict[str, Any]) -> Reply:
        if fields["command"] == "start":
            if machine.phase != "prepared":
                return Reply(machine.epoch == fields["epoch"], f"is {machine.phase}")
            try:
                head = await heads.claim(self.store, machine.run, epoch=fields["epoch"], token=fields["token"])
            except heads.Fenced:
                machine.phase = "ended"
                return Reply(False, "fenced")
            machine.epoch, machine.holder, machine.phase = head.epoch, head.holder, "training"
            machine.step = machine.durable = head.checkpoint.step if head.checkpoint else 0
            return Reply(True, "")
        machine.stopping = "stopped"
        return Reply(True, "")

    async def _live(self, machine: Machine) -> None:
        """Half a second of a box's life."""
        now = self.clock.now
        if machine.box.state == "launching" and now >= machine.ready_at:
            machine.box = replace(machine.box, state="running", ssh=SshAddress("127.0.0.1", 22))
        if machine.ends_at is not None and now >= machine.ends_at and machine.alive:
            machine.box = replace(machine.box, state="preempted")
        if machine.box.state != "running" or machine.phase in (None, "ended") or machine.supervisor_dead:
            self._beats(machine)
            return
        if machine.phase == "preparing" and now >= machine.prepared_at:
            machine.phase = "prepared"
        if machine.phase == "training":
            await self._train(machine)
        machine.counter += 1
        self._beats(machine)

    async def _train(self, machine: Machine) -> None:
        machine.step += 1
        machine.pending.append(
            Event(self.clock.wall(), "step", machine.epoch, {"step": machine.step, "loss": 1.0 / machine.step})
        )
        over = machine.step >= self.total_steps
        if machine.noticed is not None and not machine.drained_at:
            machine.drained_at = self.clock.now + self.drain_s
        ends = over or machine.stopping or (machine.drained_at and self.clock.now >= machine.drained_at)
        if machine.store_cut:
            return
        if self.fails(machine):
            await heads.conclude(
                self.store, machine.run, epoch=machine.epoch, holder=machine.holder, state="released",
                detail="user_error: exit status 1",
            )  # fmt: skip
            machine.phase = "ended"
            return
        if machine.pending:
            key = protocol.journal_key(machine.run, protocol.agent_writer(machine.epoch), machine.segment)
            await self.store.put(key, b"".join(event.line() for event in machine.pending))
            machine.pending, machine.segment = [], machine.segment + 1
        try:
            if machine.step - machine.durable >= SAVE_EVERY or ends:
                kept = Kept(machine.step, machine.epoch, f"m{machine.step}-{machine.epoch}")
                await heads.commit(
                    self.store, machine.run, epoch=machine.epoch, holder=machine.holder, kept=kept, keep=3
                )
                machine.durable = machine.step
            if ends:
                why = machine.stopping or "notice"
                await heads.conclude(
                    self.store, machine.run, epoch=machine.epoch, holder=machine.holder,
                    state="finished" if over else "released", detail="" if over else f"{why}: saved",
                )  # fmt: skip
                machine.phase = "ended"
        except heads.Fenced:
            machine.refused_commits += 1
            machine.phase = "ended"

    def _beats(self, machine: Machine) -> None:
        if machine.phase is None or machine.box.state != "running":
            return
        beat = Beat(
            machine.counter, machine.launch, machine.epoch, machine.phase, machine.step, 0.0, None, machine.durable,
            self.total_steps, machine.noticed,
        )  # fmt: skip
        if not machine.link_cut:
            for ear in list(machine.ears):
                ear.beat(beat)
        if machine.epoch and not machine.store_cut and not machine.supervisor_dead:
            key = protocol.beat_key(machine.run, machine.epoch)
            self.objects[key] = (encode(beat), str(machine.counter))


def _offer(provider: str, place: str, usd: float, market: protocol.Market = "spot") -> Offer:
    return Offer(f"{provider}/{place}/any/{market}", provider, place, market, "any", usd, "high", 0.0, boot_s=3.0)


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
