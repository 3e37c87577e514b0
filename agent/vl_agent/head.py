"""The head protocol: every change of a run's head, as a pure transition and the compare-and-swap around it.

The page that says why is docs/store-protocol.md. Each ``_to_...`` function takes the head as last read and returns the
head to write, raises because the change is not allowed, or returns the head unchanged where it is there already.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Literal

from vl_agent import protocol
from vl_agent.protocol import Head, HeadState, Kept, LaunchEnd, Manifest, RunSpec, decode, encode
from vl_agent.store import Exists, Moved, NotFound, Store, StoreError, Unanswered

Transition = Callable[[Head], Head]

_TRIES = 30
"""Lost races and lost answers after which a change gives up: the store is then as good as out of reach."""


class Fenced(Exception):
    """The head has moved on: the caller's epoch is over. It stops its training, says so and ends itself."""

    def __init__(self, head: Head) -> None:
        by = head.holder.partition("/")[0][:8] or "nobody"
        super().__init__(f"the run is at epoch {head.epoch} now, held by {by}")
        self.head = head


class NewerController(Exception):
    """A controller of a higher generation keeps this run: the caller stops."""

    def __init__(self, generation: int) -> None:
        super().__init__(f"a controller of generation {generation} keeps this fleet now")
        self.generation = generation


class Refused(Exception):
    """The change is not allowed in this state; ``str()`` says why, for a person."""


async def read(store: Store, run: str) -> tuple[Head, str]:
    """The head and its version. Raises ``NotFound`` (no such run), ``ProtocolError``."""
    stored = await store.get(protocol.head_key(run))
    return decode(Head, stored.data), stored.version


async def submit(store: Store, spec: RunSpec) -> Head:
    """Create the run: its spec, then its head (epoch 0, waiting). The same spec again is success; another raises
    ``Exists``."""
    key, body = protocol.spec_key(spec.name), encode(spec)
    try:
        await _created(store, key, body)
    except Exists:
        there = decode(RunSpec, (await store.get(key)).data)
        if replace(there, submitted_at=0.0) != replace(spec, submitted_at=0.0):
            raise Exists(f"{store.url}: a run called {spec.name} is there already: choose another name.") from None
    return await first(store, spec.name)


async def first(store: Store, run: str) -> Head:
    """The run's head; made (epoch 0, waiting) where whoever wrote the spec was killed before it came to that."""
    head = Head(0, "", 0, 0, "waiting", None, (), 1, _nonce())
    try:
        await _created(store, protocol.head_key(run), encode(head))
    except Exists:
        return (await read(store, run))[0]
    return head


async def start(store: Store, run: str, *, launch: int, generation: int, expect_epoch: int) -> Head:
    """Begin an attempt on a launch's box: epoch+1, a fresh token as holder. From here on the old attempt is fenced.
    Raises ``Refused`` when the head is not at ``expect_epoch``, the run has ended or the launch was given up."""
    try:
        end = decode(LaunchEnd, (await store.get(protocol.launch_end_key(run, launch))).data)
        raise Refused(f"launch {launch} was given up ({end.reason})")
    except NotFound:
        pass
    token = secrets.token_hex(16)

    def to_starting(head: Head) -> Head:
        _generation(head, generation)
        if head.holder.partition("/")[0] == token:
            return head
        if head.epoch != expect_epoch:
            raise Refused(f"the run is at epoch {head.epoch}, not {expect_epoch}")
        if head.state in protocol.ENDED_STATES:
            raise Refused(f"the run has {head.state}")
        return replace(
            head, epoch=head.epoch + 1, holder=token, launch=launch, generation=generation, state="starting", detail=""
        )

    return await _change(store, run, to_starting)


async def claim(store: Store, run: str, *, epoch: int, token: str, nonce: str = "") -> Head:
    """The agent's first act: from its token to token and own nonce. Of two boxes with one token one wins; the
    other gets ``Fenced``. Who asks again after a ``StoreError`` gives the same ``nonce`` again: it may have won."""
    mine = f"{token}/{nonce or _nonce()}"

    def to_running(head: Head) -> Head:
        if head.holder == mine:  # our unanswered swap did happen, and somebody has pinned a checkpoint since
            return head
        if head.epoch != epoch or head.holder != token:
            raise Fenced(head)
        return replace(head, holder=mine, state="running")

    return await _change(store, run, to_running)


async def reclaim(store: Store, run: str, *, epoch: int, holder: str) -> Head:
    """A box that starts again by itself: epoch+1, but only while the head still shows its own last claim."""
    mine = f"{secrets.token_hex(16)}/{_nonce()}"

    def to_running(head: Head) -> Head:
        if head.holder == mine:
            return head
        if head.epoch != epoch or head.holder != holder or head.state != "running":
            raise Fenced(head)
        return replace(head, epoch=head.epoch + 1, holder=mine, state="running", detail="")

    return await _change(store, run, to_running)


def new_holder() -> str:
    """A claim that nobody else can make."""
    return f"{secrets.token_hex(16)}/{_nonce()}"


async def takeover(store: Store, run: str, *, mine: str = "", last: Collection[str] | None = None) -> Head:
    """A person starts the run here, without a controller: epoch+1, claimed at once, as ``mine`` where the caller has
    that on its disk already. ``last``: nobody did, the machine began again by itself; then only while the head shows
    one of these claims, which are its own. Raises ``Fenced``, and ``Refused`` when a controller keeps the run."""
    mine = mine or new_holder()

    def to_running(head: Head) -> Head:
        if head.holder == mine:
            return head
        if last is not None and head.epoch and head.holder not in last:
            raise Fenced(head)
        if head.generation:
            raise Refused(f"{run} is kept by a controller: use `vl-tui`, or another name here.")
        return replace(head, epoch=head.epoch + 1, holder=mine, state="running", detail="")

    return await _change(store, run, to_running)


async def commit(
    store: Store, run: str, *, epoch: int, holder: str, kept: Kept, keep: int, keep_every: int | None = None
) -> tuple[Head, tuple[Kept, ...]]:
    """Name a new durable checkpoint: one swap sets checkpoint and kept together. Returns the head and the entries that
    this swap dropped from the kept ones (``retained`` says which stay). Its manifest and every blob must be in the
    store. A suspect one is kept, but the checkpoint that is resumed from stays what it is. Raises ``Fenced``."""
    dropped: tuple[Kept, ...] = ()

    def to_committed(head: Head) -> Head:
        nonlocal dropped
        _holds(head, epoch, holder)
        if any(entry.manifest == kept.manifest for entry in head.kept):
            return head
        if head.checkpoint is not None and kept.step < head.checkpoint.step:
            raise Refused(f"step {kept.step} is older than the durable step {head.checkpoint.step}")
        entries = retained((*_not_abandoned(head), kept), keep, keep_every)
        dropped = tuple(entry for entry in head.kept if entry not in entries)
        return replace(head, checkpoint=head.checkpoint if kept.suspect else kept, kept=entries)

    return await _change(store, run, to_committed), dropped


def retained(entries: tuple[Kept, ...], keep: int, keep_every: int | None = None) -> tuple[Kept, ...]:
    """The last ``keep`` (at least one) of the unpinned entries, every pinned one, and the first of each
    ``keep_every`` steps, in order. Which is the first stays the same however many after it are dropped. Suspect ones
    take no good one's place: the newest of them is kept beside."""
    good = tuple(entry for entry in entries if not entry.suspect)
    unpinned = [entry for entry in good if not entry.pinned]
    chosen = {*unpinned[-max(1, keep) :], *[entry for entry in entries if entry.suspect][-1:]}
    if keep_every is not None:
        chosen |= {entry for entry, before in zip(good, (None, *good), strict=False)
                   if before is None or entry.step // keep_every > before.step // keep_every}  # fmt: skip
    return tuple(entry for entry in entries if entry.pinned or entry in chosen)


def _not_abandoned(head: Head) -> tuple[Kept, ...]:
    """The kept entries without those that a rollback went back behind (pinned ones stay, and suspect ones: they are
    newer than the checkpoint by their nature)."""
    newest = head.checkpoint
    return tuple(e for e in head.kept if e.pinned or e.suspect or newest is None or e.step <= newest.step)


async def conclude(
    store: Store, run: str, *, epoch: int, holder: str, state: Literal["released", "finished", "failed"], detail: str
) -> Head:
    """The agent's last word: its training is over and its last save durable. Raises ``Fenced``."""

    def to_ended(head: Head) -> Head:
        if head.epoch == epoch and head.holder == holder and head.state == state:
            return head
        _holds(head, epoch, holder)
        return replace(head, state=state, detail=detail)

    return await _change(store, run, to_ended)


async def stamp(store: Store, run: str, *, generation: int) -> Head:
    """A new controller marks the run as its own. Raises ``NewerController``."""

    def to_stamped(head: Head) -> Head:
        _generation(head, generation)
        return head if head.generation == generation else replace(head, generation=generation)

    return await _change(store, run, to_stamped)


async def end(store: Store, run: str, *, generation: int, state: Literal["stopped", "failed"], detail: str) -> Head:
    """The controller ends the run: epoch+1 without a holder, so that whatever still trains is fenced."""

    def to_ended(head: Head) -> Head:
        _generation(head, generation)
        if head.state in protocol.ENDED_STATES:
            return head
        return _unheld(head, generation, state, detail)

    return await _change(store, run, to_ended)


async def rollback(store: Store, run: str, *, generation: int, step: int, expect_epoch: int) -> Head:
    """A person goes back to a kept checkpoint: epoch+1 without a holder, waiting. Raises ``Refused`` when no kept
    checkpoint has that step, or when the run has moved on from ``expect_epoch``. The kept checkpoints after it
    stay until the next commit drops them, so that a rollback can itself be taken back."""

    def to_rolled_back(head: Head) -> Head:
        _generation(head, generation)
        found = [entry for entry in head.kept if entry.step == step]
        if not found:
            raise Refused(f"no kept checkpoint has step {step}")
        if head.epoch == expect_epoch + 1 and head.state == "waiting" and head.checkpoint == found[-1]:
            return head
        if head.epoch != expect_epoch:
            raise Refused(f"the run is at epoch {head.epoch}, not {expect_epoch}")
        return replace(_unheld(head, generation, "waiting", f"rolled back to step {step}"), checkpoint=found[-1])

    return await _change(store, run, to_rolled_back)


async def pin(store: Store, run: str, *, step: int, pinned: bool) -> Head:
    """Keep a checkpoint until a person says otherwise, or no longer. Raises ``Refused`` when none has that step."""

    def to_pinned(head: Head) -> Head:
        if not any(entry.step == step for entry in head.kept):
            raise Refused(f"no kept checkpoint has step {step}")
        entries = tuple(replace(e, pinned=pinned) if e.step == step else e for e in head.kept)
        newest = head.checkpoint
        if newest is not None and newest.step == step:
            newest = replace(newest, pinned=pinned)
        return head if entries == head.kept else replace(head, kept=entries, checkpoint=newest)

    return await _change(store, run, to_pinned)


async def delete_released(store: Store, run: str, *, epoch: int, holder: str, dropped: tuple[Kept, ...]) -> None:
    """Delete the manifests of entries that a swap dropped, and those of their blobs that no kept checkpoint names.
    By the holder only, after the swap (invariant 5). A manifest that can't be read ends it: nothing is guessed."""
    gone = [await manifest(store, entry.manifest) for entry in dropped]
    keys = {ref.key for one in gone for ref in one.files}
    head, _ = await read(store, run)
    _holds(head, epoch, holder)
    keys -= await _named(store, head)
    for key in [*sorted(keys), *(entry.manifest for entry in dropped)]:
        await store.delete(key)


async def sweep(store: Store, run: str, *, epoch: int, holder: str) -> int:
    """Delete what older epochs left and no kept checkpoint names: killed uploads, deletions that never ran. Returns how
    many keys. By the holder, at the start of its epoch. A manifest that can't be read ends the sweep."""
    head, _ = await read(store, run)
    _holds(head, epoch, holder)
    keep = await _named(store, head) | {entry.manifest for entry in _entries(head)}
    swept = 0
    for prefix in (protocol.blobs_prefix(run), protocol.checkpoints_prefix(run)):
        for entry in await store.list(prefix):
            if entry.key not in keep and _epoch_of(entry.key, epoch) < epoch:
                await store.delete(entry.key)
                swept += 1
    return swept


async def manifest(store: Store, key: str) -> Manifest:
    """Read one manifest. Raises ``NotFound``, ``ProtocolError``."""
    return decode(Manifest, (await store.get(key)).data)


def _entries(head: Head) -> tuple[Kept, ...]:
    return head.kept if head.checkpoint is None else (*head.kept, head.checkpoint)


async def _named(store: Store, head: Head) -> set[str]:
    """Every blob key that the head's checkpoints name."""
    keys = {entry.manifest for entry in _entries(head)}
    return {ref.key for key in sorted(keys) for ref in (await manifest(store, key)).files}


def _epoch_of(key: str, otherwise: int) -> int:
    """The epoch in ``<hash>-<epoch>-<i>`` or ``<step>-<epoch>-<i>.json``."""
    parts = key.rpartition("/")[2].removesuffix(".json").rsplit("-", 2)
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else otherwise


def _holds(head: Head, epoch: int, holder: str) -> None:
    if head.epoch != epoch or head.holder != holder or head.state != "running":
        raise Fenced(head)


def _generation(head: Head, generation: int) -> None:
    if head.generation > generation:
        raise NewerController(head.generation)


def _unheld(head: Head, generation: int, state: HeadState, detail: str) -> Head:
    return replace(head, epoch=head.epoch + 1, holder="", launch=0, generation=generation, state=state, detail=detail)


def _nonce() -> str:
    return secrets.token_hex(8)


async def _created(store: Store, key: str, body: bytes) -> None:
    """Create, and after a lost answer look: the same bytes there are ours or as good. Raises ``Exists``."""
    try:
        await store.create(key, body)
    except (Exists, Unanswered):
        try:
            there = (await store.get(key)).data
        except NotFound:
            await store.create(key, body)
            return
        if there != body:
            raise Exists(f"{store.url}: {key} is there already.") from None


async def _change(store: Store, run: str, transition: Transition) -> Head:
    """Read, decide, swap; after a lost race or a lost answer read again. A head that carries our nonce is our success:
    only this write could have put it there. Raises what ``transition`` raises, and ``StoreError``."""
    key = protocol.head_key(run)
    written: set[str] = set()
    for attempt in range(_TRIES):
        head, version = await _read_again(store, run)
        if head.nonce in written:
            return head
        new = transition(head)
        if new == head:
            return head
        new = replace(new, sequence=head.sequence + 1, nonce=_nonce())
        written.add(new.nonce)
        try:
            await store.swap(key, encode(new), version)
            return new
        except (Moved, Unanswered):
            await asyncio.sleep(random.uniform(0, min(2.0, 0.02 * 2**attempt)))
    raise StoreError(f"{store.url}: {key} could not be changed in {_TRIES} tries: too many writers, or no answers.")


async def _read_again(store: Store, run: str) -> tuple[Head, str]:
    """Read the head; an unanswered read says nothing and may be asked again, twice."""
    for _ in range(2):
        try:
            return await read(store, run)
        except Unanswered:
            await asyncio.sleep(random.uniform(0, 0.5))
    return await read(store, run)
