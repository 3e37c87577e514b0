"""Histories of the head protocol: real writers, stopped before each request, over a store that does what networks do.

Each operation is a coroutine of the real ``vl_agent.head`` (and of the upload that goes before a commit), driven by
hand: it runs to its next request and waits there, while others go on. What becomes of the request is chosen by whoever
drives the history: answered, lost, its answer lost, late, doubled, or its writer dies. After each effect on the store
the invariants are looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field, replace
from typing import Any

from vl_agent import head as heads
from vl_agent import protocol
from vl_agent.head import Fenced, NewerController, Refused
from vl_agent.protocol import BlobRef, CheckpointPolicy, Head, Kept, LaunchEnd, Manifest, RunSpec, decode, encode
from vl_agent.store import Exists, Stored, StoreError, Unanswered

from tests.store.memory import Ask, Fate, Memory, MemoryStore

RUN = "run"
KEEP = 2
CONTENTS = (b"base", b"one", b"two")
"""What checkpoints hold: few, so that the same bytes come back."""
ENDINGS = (Fenced, NewerController, Refused, StoreError)
"""How an operation may end without its wish; what a program does on each is the caller's part."""

NEXT: dict[tuple[str, str], set[str]] = {
    ("waiting", "starting"): {"controller"},
    ("starting", "starting"): {"controller"},
    ("running", "starting"): {"controller"},
    ("released", "starting"): {"controller"},
    ("starting", "running"): {"box"},
    ("running", "running"): {"box"},
    ("running", "released"): {"box"},
    ("running", "finished"): {"box"},
    ("running", "failed"): {"box"},
    **{(state, "stopped"): {"controller"} for state in ("waiting", "starting", "running", "released")},
    **{
        (state, "waiting"): {"controller"}
        for state in ("waiting", "starting", "running", "released", "finished", "failed", "stopped")
    },
}
"""The table of docs/store-protocol.md: who may bring the head from which state to which, as far as that is a change."""


@dataclass(frozen=True)
class Sent:
    """A request and who sent it."""

    ask: Ask
    by: Writer


@dataclass(eq=False)
class Writer:
    """A controller, a box or a person. It does one thing at a time."""

    kind: str
    generation: int = 0
    launch: int = 0
    epoch: int = 0
    holder: str = ""
    step: int = 0
    counter: int = 0
    swept: bool = False
    alive: bool = True
    over: bool = False
    """A box that was fenced, or has said its last word."""
    doing: Operation | None = None


@dataclass(eq=False)
class Operation:
    name: str
    by: Writer
    coroutine: Coroutine[Any, Any, None]
    waits: Ask | None = None
    saw: Head | None = None
    """The head as it last read it."""


class _Asked:
    def __init__(self, ask: Ask) -> None:
        self.ask = ask

    def __await__(self) -> Generator[Ask, Any, Any]:
        return (yield self.ask)


class Stepped(MemoryStore):
    """Every request waits for whoever drives the history."""

    async def _ask(self, ask: Ask) -> Any:
        return await _Asked(ask)


async def no_sleep(seconds: float) -> None:
    """Instead of ``asyncio.sleep``: who waits here waits at a request."""


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class History:
    """One run's store, its writers, and what is on its way."""

    memory: Memory = field(default_factory=Memory)
    writers: list[Writer] = field(default_factory=list)
    late: list[Sent] = field(default_factory=list)
    performed: list[tuple[Ask, str]] = field(default_factory=list)
    """Every effect on the store in order, and what came of it: for a replay on another store."""
    tokens: list[tuple[int, int, str]] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)
    claimed: dict[int, Writer] = field(default_factory=dict)
    generation: int = 0
    launches: int = 0

    def __post_init__(self) -> None:
        self.store = Stepped(self.memory)
        spec = RunSpec(RUN, "fleet", "true", CheckpointPolicy("ckpt"))
        operation = self.begin("submit", Writer("person"), heads.submit(self.store, spec))
        while operation.waits is not None:
            self.answer(operation, "ok")
        self.controller()

    @property
    def head(self) -> Head:
        return decode(Head, self.memory.objects[protocol.head_key(RUN)])

    @property
    def waiting(self) -> list[Operation]:
        return [w.doing for w in self.writers if w.doing is not None]

    def idle(self, kind: str) -> list[Writer]:
        return [w for w in self.writers if w.kind == kind and w.alive and not w.over and w.doing is None]

    # ------------------------------------------------------------------------------------------------ who does what

    def controller(self) -> None:
        """A next controller. Those before it go on: paused and woken, they don't know."""
        self.generation += 1
        one = Writer("controller", generation=self.generation)
        self.writers.append(one)
        self.begin("stamp", one, heads.stamp(self.store, RUN, generation=one.generation))

    def start(self, by: Writer, launch: int) -> None:
        self.begin("start", by, self._start(by, launch))

    async def _start(self, by: Writer, launch: int) -> None:
        seen, _ = await heads.read(self.store, RUN)
        new = await heads.start(self.store, RUN, launch=launch, generation=by.generation, expect_epoch=seen.epoch)
        self.tokens.append((launch, new.epoch, new.holder.partition("/")[0]))

    def give_up(self, by: Writer, launch: int) -> None:
        """The end record of a launch: written by a controller that has seen that the run is still its own."""
        self.begin("give up", by, self._give_up(by, launch))

    async def _give_up(self, by: Writer, launch: int) -> None:
        await heads.stamp(self.store, RUN, generation=by.generation)
        body = encode(LaunchEnd(launch, "lost", "", 0.0))
        try:
            await self.store.create(protocol.launch_end_key(RUN, launch), body)
        except Exists:
            return

    def stop(self, by: Writer) -> None:
        self.begin("end", by, heads.end(self.store, RUN, generation=by.generation, state="stopped", detail=""))

    def roll_back(self, by: Writer, step: int) -> None:
        self.begin("rollback", by, self._roll_back(by, step))

    async def _roll_back(self, by: Writer, step: int) -> None:
        seen, _ = await heads.read(self.store, RUN)
        await heads.rollback(self.store, RUN, generation=by.generation, step=step, expect_epoch=seen.epoch)

    def pin(self, step: int, *, pinned: bool) -> None:
        person = Writer("person")
        self.writers.append(person)
        self.begin("pin", person, heads.pin(self.store, RUN, step=step, pinned=pinned))

    def box(self, token: tuple[int, int, str]) -> None:
        """A box that got this token over SSH; a provider's double gets the same one."""
        launch, epoch, words = token
        one = Writer("box", launch=launch, epoch=epoch)
        self.writers.append(one)
        self.begin("claim", one, self._hold(one, heads.claim(self.store, RUN, epoch=epoch, token=words)))

    def restart(self, one: Writer) -> None:
        """It starts again by itself: all it knows is its own last claim."""
        again = heads.reclaim(self.store, RUN, epoch=one.epoch, holder=one.holder)
        self.begin("reclaim", one, self._hold(one, again))

    async def _hold(self, one: Writer, claim: Coroutine[Any, Any, Head]) -> None:
        try:
            head = await claim
        except Fenced:
            one.over = True
            raise
        other = self.claimed.setdefault(head.epoch, one)
        if other is not one:
            raise Broken(f"epoch {head.epoch} is held by two boxes (invariant 1)")
        one.epoch, one.holder, one.swept, one.counter = head.epoch, head.holder, False, 0
        one.step = head.checkpoint.step if head.checkpoint else 0

    def save(self, one: Writer, content: bytes, steps: int = 1) -> None:
        """A save: its blob, unless a kept checkpoint names one of that content, its manifest, the swap, deletions. A
        script that goes back by itself does ``steps`` below zero."""
        one.step = max(1, one.step + steps)
        one.counter += 1
        self.begin("commit", one, self._commit(one, content, one.step, one.counter))

    async def _commit(self, one: Writer, content: bytes, step: int, counter: int) -> None:
        if not one.swept:
            await heads.sweep(self.store, RUN, epoch=one.epoch, holder=one.holder)
            one.swept = True
        digest = hashlib.sha256(content).hexdigest()
        ref = await self._kept_blob(digest)
        if ref is None:
            ref = BlobRef("file", len(content), digest, protocol.blob_key(RUN, digest, one.epoch, counter))
            await self.store.put(ref.key, content)
        key = protocol.manifest_key(RUN, step, one.epoch, counter)
        await self.store.create(key, encode(Manifest(RUN, one.epoch, step, "file", "file", (ref,), 0.0)))
        kept = Kept(step, one.epoch, key)
        try:
            _, dropped = await heads.commit(self.store, RUN, epoch=one.epoch, holder=one.holder, kept=kept, keep=KEEP)
        except Fenced:
            one.over = True
            raise
        await heads.delete_released(self.store, RUN, epoch=one.epoch, holder=one.holder, dropped=dropped)

    async def _kept_blob(self, digest: str) -> BlobRef | None:
        head, _ = await heads.read(self.store, RUN)
        for entry in head.kept:
            for ref in (await heads.manifest(self.store, entry.manifest)).files:
                if ref.hash == digest:
                    return ref
        return None

    def conclude(self, one: Writer, state: Any) -> None:
        self.begin("conclude", one, self._conclude(one, state))

    async def _conclude(self, one: Writer, state: Any) -> None:
        await heads.conclude(self.store, RUN, epoch=one.epoch, holder=one.holder, state=state, detail="")
        one.over = True

    # -------------------------------------------------------------------------------------------- one request at a time

    def begin(self, name: str, by: Writer, coroutine: Coroutine[Any, Any, Any]) -> Operation:
        by.doing = operation = Operation(name, by, coroutine)
        self._go_on(operation, None)
        return operation

    def answer(self, operation: Operation, fate: Fate) -> None:
        """Let the operation's request meet ``fate``, and go on to its next one."""
        ask = operation.waits
        assert ask is not None
        sent = Sent(ask, operation.by)
        if ask.op == "delete":
            _check_deletes(operation)
        if fate in ("late", "twice", "crash, late"):
            self.late.append(sent)
        if fate in ("lost reply", "crash after"):
            self.perform(sent)
        if fate.startswith("crash"):
            self._die(operation)
        elif fate in ("ok", "twice"):
            answer = self.perform(sent)
            if ask.op == "get" and ask.key == protocol.head_key(RUN) and isinstance(answer, Stored):
                operation.saw = decode(Head, answer.data)
            self._go_on(operation, answer)
        else:
            self._go_on(operation, Unanswered(f"no answer for {ask.key}"))

    def arrive(self, index: int) -> None:
        """A late request arrives; nobody hears its answer."""
        self.perform(self.late.pop(index))

    def _die(self, operation: Operation) -> None:
        """The process is gone. A box may start again by itself, with its claim on its disk; one without has none."""
        operation.coroutine.close()
        operation.by.doing = operation.waits = None
        operation.by.alive = operation.by.kind == "box" and bool(operation.by.holder)

    def _go_on(self, operation: Operation, answer: Any) -> None:
        try:
            if isinstance(answer, StoreError):
                operation.waits = operation.coroutine.throw(answer)
            else:
                operation.waits = operation.coroutine.send(answer)
            return
        except NewerController:
            operation.by.alive = False
        except (StopIteration, *ENDINGS):
            pass
        operation.by.doing = operation.waits = None

    def perform(self, sent: Sent) -> Any:
        """The request reaches the store. Returns its answer or the error it is answered with."""
        before = dict(self.memory.objects)
        try:
            answer: Any = self.memory.perform(sent.ask)
            self.performed.append((sent.ask, "done"))
        except StoreError as error:
            self.performed.append((sent.ask, type(error).__name__))
            return error
        if sent.ask.op not in ("get", "list"):
            check(self, before, sent)
        return answer


def check(history: History, before: dict[str, bytes], sent: Sent) -> None:
    """Raise ``Broken`` when this effect broke an invariant."""
    key = protocol.head_key(RUN)
    objects = history.memory.objects
    if key not in objects:
        return
    new = decode(Head, objects[key])
    if key in before and objects[key] != before[key]:
        _check_change(decode(Head, before[key]), new, sent.by, objects)
    if sent.ask.op == "delete" and sent.ask.key in before:
        history.deleted.add(sent.ask.key)
    _check_named(new, objects, history.deleted)


def _check_change(old: Head, new: Head, by: Writer, objects: dict[str, bytes]) -> None:
    if new.epoch < old.epoch:
        raise Broken(f"epoch fell from {old.epoch} to {new.epoch} (invariant 1)")
    if new.generation < old.generation:
        raise Broken(f"a controller of generation {new.generation} wrote after {old.generation}")
    if new.sequence <= old.sequence or new.nonce == old.nonce:
        raise Broken("a write without a new sequence and nonce")
    if old.state != new.state and by.kind not in NEXT.get((old.state, new.state), set()):
        raise Broken(f"a {by.kind} brought the head from {old.state} to {new.state}")
    if new.state == "starting" and old.epoch != new.epoch and protocol.launch_end_key(RUN, new.launch) in objects:
        raise Broken(f"launch {new.launch} was given up and got epoch {new.epoch}")
    if _named(old.checkpoint) != _named(new.checkpoint):
        rolled_back = by.kind == "controller" and new.state == "waiting" and new.epoch == old.epoch + 1
        holds = by.kind == "box" and (old.epoch, old.holder) == (by.epoch, by.holder) and new.epoch == old.epoch
        if not rolled_back and not (holds and old.state == "running"):
            raise Broken(f"a {by.kind} that does not hold epoch {old.epoch} moved its checkpoint (invariant 1)")
        if holds:
            _check_kept(old, new)
        fell = old.checkpoint is not None and (new.checkpoint is None or new.checkpoint.step < old.checkpoint.step)
        if fell and not rolled_back:
            raise Broken("the checkpoint's step fell without a rollback (invariant 2)")


def _check_kept(old: Head, new: Head) -> None:
    """What a commit did to the kept checkpoints."""
    assert new.checkpoint is not None
    if not {e for e in old.kept if e.pinned} <= set(new.kept):
        raise Broken("a commit dropped a pinned checkpoint (invariant 5)")
    if any(e.step > new.checkpoint.step and not e.pinned for e in new.kept):
        raise Broken("a commit kept a checkpoint that a rollback had gone back behind")
    if len([e for e in new.kept if not e.pinned]) > KEEP:
        raise Broken("a commit kept more than it may")


def _check_deletes(operation: Operation) -> None:
    by, saw = operation.by, operation.saw
    if saw is None or (saw.epoch, saw.holder, saw.state) != (by.epoch, by.holder, "running"):
        raise Broken("somebody deletes who has not seen that it holds the epoch (invariant 5)")


def _named(kept: Kept | None) -> Kept | None:
    return None if kept is None else replace(kept, pinned=False)


def _check_named(head: Head, objects: dict[str, bytes], deleted: set[str]) -> None:
    entries = {*head.kept, *([head.checkpoint] if head.checkpoint else [])}
    for manifest in {entry.manifest for entry in entries}:
        if manifest not in objects:
            raise Broken(f"{manifest} is named and is not there (invariant 5)")
        for ref in decode(Manifest, objects[manifest]).files:
            if ref.key in deleted or manifest in deleted:
                raise Broken(f"{ref.key} was deleted and is named (invariant 5)")
            if hashlib.sha256(objects.get(ref.key, b"")).hexdigest() != ref.hash:
                raise Broken(f"{ref.key} is named and is not there as it was saved (invariants 3 and 5)")


# ------------------------------------------------------------------------------------------------- driving a history

Choose = Callable[[int], int]
"""A number below the one given."""
KINDS: tuple[Fate, ...] = (
    *("ok",) * 40, "lost", "lost reply", "lost reply", "late", "late", "twice", "twice", "crash before", "crash after",
    "crash, late",
)  # fmt: skip


def act(history: History, choose: Choose) -> None:
    """One thing happens: mostly a request is answered, sometimes a late one arrives or somebody begins something."""
    kind = choose(10)
    if kind < 6 and history.waiting:
        operation = history.waiting[choose(len(history.waiting))]
        for _ in range(1 + choose(20)):
            if operation.waits is not None:
                history.answer(operation, KINDS[choose(len(KINDS))])
    elif kind == 6 and history.late:
        history.arrive(choose(len(history.late)))
    else:
        _begin(history, choose)


def _begin(history: History, choose: Choose) -> None:
    controllers, boxes = history.idle("controller"), history.idle("box")
    what = choose(20)
    if what == 0 and history.generation < 5 and choose(2):
        history.controller()
    elif what <= 3 and controllers:
        history.launches += choose(2)
        history.start(controllers[choose(len(controllers))], max(1, history.launches - choose(3)))
    elif what == 4 and controllers and history.launches:
        history.give_up(controllers[choose(len(controllers))], 1 + choose(history.launches))
    elif what == 5 and controllers and choose(6) == 0:
        history.stop(controllers[choose(len(controllers))])
    elif what == 6 and controllers:
        history.roll_back(controllers[choose(len(controllers))], 1 + choose(12))
    elif what == 7:
        history.pin(1 + choose(12), pinned=choose(3) > 0)
    elif what <= 9 and history.tokens:
        history.box(history.tokens[-1 - choose(min(2, len(history.tokens)))])
    elif boxes:
        _box_acts(history, boxes[choose(len(boxes))], choose)


def _box_acts(history: History, one: Writer, choose: Choose) -> None:
    what = choose(12)
    if not one.holder:  # its claim was not answered: it asks no more
        one.over = True
    elif what == 0:
        history.restart(one)
    elif what == 1 and choose(3) == 0:
        history.conclude(one, ("released", "released", "finished", "failed")[choose(4)])
    else:
        history.save(one, CONTENTS[choose(len(CONTENTS))], (1, 1, 1, 1, -2)[choose(5)])
