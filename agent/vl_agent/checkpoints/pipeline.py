"""From saved to durable: hold, hash, upload, manifest, one swap of the head, then deletion of what that released.

Only the newest save waits: while one is uploaded or the store is out of reach, later ones replace each other. A suspect
one replaces no good one, it waits behind it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from vl_agent import head as heads
from vl_agent.checkpoints import files
from vl_agent.checkpoints.files import Stamp
from vl_agent.checkpoints.watch import Part, Saved, Watch
from vl_agent.head import Fenced
from vl_agent.protocol import BlobRef, Head, Kept, Manifest, ProtocolError, blob_key, encode, manifest_key
from vl_agent.reach import Reach
from vl_agent.store import Exists, NotFound, Store, StoreError, Unanswered

LOOK_S = 0.3
LOOK_SHARE = 0.05
"""Share of the time that looking at a large or slow folder may take."""
_MOST_PAUSE_S = 5.0
_HURRIED_PAUSE_S = 0.5

Tell = Callable[..., None]


class Changed(Exception):
    """The file was written or deleted while it was read: this save is passed over."""


@dataclass(frozen=True)
class _Sent:
    """A save whose blobs are in the store: what is left of its way may be asked again, byte for byte the same."""

    saved: Saved
    key: str
    manifest: Manifest
    bytes: int


class Pipeline:
    """The checkpoint path of one attempt. ``saved_step`` and ``durable_step`` are for the beat."""

    def __init__(
        self, store: Store, run: str, head: Head, watch: Watch, reach: Reach, *, keep: int, tell: Tell,
        swept: Callable[[], bool], keep_every: int | None = None, distrusted: Collection[str] = (),
        doubt: Callable[[int], str] = lambda _: "", wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """``swept``: whether this epoch's sweep is over; until then no blob that is there already is named.
        ``distrusted``: manifests whose blobs were found missing or corrupt; nothing of theirs is named again.
        ``doubt``: why a checkpoint of this step is not to be resumed from, or nothing."""
        self._store, self._run, self._watch = store, run, watch
        self._epoch, self._holder = head.epoch, head.holder
        self._reach, self._keep, self._keep_every, self._tell, self._wall = reach, keep, keep_every, tell, wall
        self._distrusted, self._swept, self._doubt = distrusted, swept, doubt
        self._good: Saved | None = None
        self._suspect: Saved | None = None
        self._arrived = asyncio.Event()
        self._closing = False
        self._taken: dict[str, Mapping[str, Stamp]] = {}
        self._known: dict[tuple[str, int], BlobRef] | None = None
        self._unnamed: dict[tuple[str, int], BlobRef] = {}
        """Blobs of this epoch that no manifest in the head names yet; nobody deletes them."""
        self._counter = 0
        self._sent: _Sent | None = None
        self._busy: Saved | None = None
        self._most_pause_s = _MOST_PAUSE_S / 2
        self.layout = ""
        self.saved_step: int | None = None
        self.durable_step = head.checkpoint.step if head.checkpoint else None

    @property
    def pending(self) -> Saved | None:
        """The save that is on its way and not durable yet."""
        return self._busy or self._waiting

    def hurry(self) -> None:
        """A notice came: from now on nothing is waited for but the store."""
        self._most_pause_s = _HURRIED_PAUSE_S

    @property
    def _waiting(self) -> Saved | None:
        return self._good or self._suspect

    def saved(self, name: str, step: int, took_s: float | None) -> None:
        """The helper told of a save."""
        found = self._watch.told(name, step, took_s)
        if found is not None:
            self._take(found)

    async def run(self) -> None:
        """Watch and make durable, until cancelled or, after ``close``, until nothing is left. Raises ``Fenced``."""
        looking = asyncio.create_task(self._keep_looking())
        looking.add_done_callback(lambda task: None if task.cancelled() else self._arrived.set())
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                if looking.done():  # by an error: who does not look any more must not seem to
                    looking.result()
                if self._waiting is not None:
                    await self._next(self._waiting)
                elif self._closing:
                    return
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def close(self, *, finished: bool = True) -> None:
        """The command has ended: ``run`` returns once its newest save is durable. The store is asked until it answers;
        a save that is under way is not begun anew. ``finished``: it ended by its own word, no save was cut off."""
        await self.look(patient=False, finished=finished)
        self._closing = True
        self._arrived.set()

    async def look(self, *, patient: bool = True, finished: bool = True) -> None:
        for found in await asyncio.to_thread(self._watch.look, patient=patient, finished=finished):
            self._take(found)
        for name, why in self._watch.damage():
            self._tell("save_skipped", step=files.step_of(name), why=f"{name} is not whole: {why}")
        for words in self._watch.complaints():
            self._tell("warning", text=words)

    async def _keep_looking(self) -> None:
        took = 0.0
        while True:
            await asyncio.sleep(max(LOOK_S, took / LOOK_SHARE))
            began = time.monotonic()
            await self.look()
            took = min(1.0, time.monotonic() - began)

    def _take(self, found: Saved) -> None:
        """A save seen by the watch or told by the helper; the same one may come by both ways."""
        if self._taken.get(found.name) == found.seen:
            found.let_go()
            return
        self._taken = {name: seen for name, seen in self._taken.items() if (self._watch.folder / name).exists()}
        self._taken[found.name] = found.seen
        if found.layout.name != self.layout:
            self.layout = found.layout.name
            self._tell("layout", name=self.layout, resume=found.layout.resume)
        step = found.step if found.step is not None else max(self.saved_step or 0, self.durable_step or 0) + 1
        found = replace(found, step=step, suspect=self._doubt(step))
        self._tell("saved", step=step, name=found.name, bytes=found.bytes, took_s=found.took_s)
        self.saved_step = step
        good = self._good
        if self.durable_step is not None and step < self.durable_step:
            why = f"older than the durable step {self.durable_step}"
        elif good is not None and step < (good.step or 0):
            why = f"older than step {good.step}, which waits"
        else:
            self._wait(found)
            return
        self._tell("save_skipped", step=step, why=why)
        found.let_go()

    def _wait(self, found: Saved) -> None:
        """In place of the one of its kind that waited; a good one also in place of a suspect one before it."""
        replaced = [self._suspect if found.suspect else self._good]
        if found.suspect:
            self._suspect = found
        else:
            self._good = found
            if self._suspect is not None and (self._suspect.step or 0) <= (found.step or 0):
                replaced.append(self._suspect)
                self._suspect = None
        for saved in replaced:
            if saved is not None:
                saved.let_go()
        self._arrived.set()

    async def _next(self, saved: Saved) -> None:
        """Make the waiting save durable; after a failure of the store it waits on, unless a newer one came."""
        self._busy = saved
        if saved.suspect:
            self._suspect = None
        else:
            self._good = None
        try:
            await self._commit(saved, saved.step or 0)
            self._reach.works("checkpoints")
            saved.let_go()
        except Changed as why:
            self._tell("save_skipped", step=saved.step, why=str(why))
            saved.let_go()
        except (StoreError, ProtocolError) as error:
            self._known = None  # the swap may have happened: what it dropped is not named again
            self._reach.failed("checkpoints", error)
            if (self._suspect if saved.suspect else self._good) is None:
                self._wait(saved)
            else:
                saved.let_go()
            await asyncio.sleep(random.uniform(0.2, self._most_pause_s))
        except Fenced as fenced:
            self.refused(saved, fenced.head)
            raise
        finally:
            self._busy = None
            self._arrived.set()

    def refused(self, saved: Saved, head: Head) -> None:
        self._tell("commit_refused", step=saved.step, head_epoch=head.epoch, head_holder=head.holder[:8])

    async def _commit(self, saved: Saved, step: int) -> None:
        began = time.monotonic()
        sent = self._sent
        if sent is None or sent.saved is not saved:
            sent = self._sent = await self._send(saved, step)
        await _create(self._store, sent.key, encode(sent.manifest))
        suspect = sent.manifest.suspect
        kept = Kept(step, self._epoch, sent.key, suspect=suspect)
        for ref in sent.manifest.files:  # from here on the head may name them, and drop them, whatever is answered
            self._unnamed.pop((ref.hash, ref.size), None)
        try:
            _, dropped = await heads.commit(
                self._store, self._run, epoch=self._epoch, holder=self._holder, kept=kept, keep=self._keep,
                keep_every=self._keep_every,
            )  # fmt: skip
        except heads.Refused as why:
            raise Changed(str(why)) from None
        if self._known is not None:
            self._known.update({(ref.hash, ref.size): ref for ref in sent.manifest.files})
        words = {"step": step, "manifest": sent.key, "bytes": saved.bytes, "sent": sent.bytes}
        words["took_s"] = round(time.monotonic() - began, 3)
        if suspect:
            self._tell("suspect", **words, why=suspect)
        else:
            self.durable_step = step
            self._tell("durable", **words)
        await self._delete(dropped)

    async def _send(self, saved: Saved, step: int) -> _Sent:
        """The save's blobs in the store, and the manifest that names them."""
        refs, sent = [], 0
        for part in saved.parts:
            ref, bytes_sent = await self._blob(part)
            refs.append(ref)
            sent += bytes_sent
        self._counter += 1
        key = manifest_key(self._run, step, self._epoch, self._counter)
        manifest = Manifest(
            self._run, self._epoch, step, saved.layout.name, saved.name, tuple(refs), self._wall(),
            suspect=saved.suspect or self._doubt(step),
        )  # fmt: skip
        return _Sent(saved, key, manifest, sent)

    async def _blob(self, part: Part) -> tuple[BlobRef, int]:
        """The file as a blob of the store, and how many bytes were sent for it: none for an unchanged one that a kept
        checkpoint names, or that was sent for a save which did not come so far."""
        try:
            if Stamp.of(part.held) != part.stamp:
                raise Changed("it was written again before it could be read")
            digest = part.digest or await asyncio.to_thread(_proven, part)
            content = (digest, part.stamp.size)
            mode = part.held.stat().st_mode & 0o777
            known = (await self._kept_blobs()).get(content) or self._unnamed.get(content)
            if known is not None:
                return BlobRef(part.path, part.stamp.size, digest, known.key, mode), 0
            key = await self._upload(part, digest)
            if Stamp.of(part.held) != part.stamp:
                raise Changed("it was written while it was uploaded")
        except FileNotFoundError:
            raise Changed("it was deleted before it could be read") from None
        ref = self._unnamed[content] = BlobRef(part.path, part.stamp.size, digest, key, mode)
        return ref, part.stamp.size

    async def _upload(self, part: Part, digest: str) -> str:
        """Send one file. Returns the key of its blob. Raises ``StoreError``."""
        self._counter += 1
        key = blob_key(self._run, digest, self._epoch, self._counter)
        await self._store.put_file(key, part.held)
        return key

    async def _kept_blobs(self) -> dict[tuple[str, int], BlobRef]:
        """Blobs of the kept checkpoints by content: read by the head as it is, then kept up to date by our commits."""
        if not self._swept():
            return {}
        if self._known is None:
            head, _ = await heads.read(self._store, self._run)
            known = {}
            for entry in head.kept:
                if entry.manifest in self._distrusted:
                    continue
                try:
                    manifest = await heads.manifest(self._store, entry.manifest)
                except (NotFound, ProtocolError):
                    continue
                known.update({(ref.hash, ref.size): ref for ref in manifest.files})
            self._known = known
        return self._known

    async def _delete(self, dropped: Sequence[Kept]) -> None:
        """Only after the swap. What is not deleted now is swept by the next epoch."""
        if not dropped:
            return
        self._known = None
        try:
            await heads.delete_released(
                self._store, self._run, epoch=self._epoch, holder=self._holder, dropped=tuple(dropped)
            )
        except (StoreError, ProtocolError) as error:
            self._tell("warning", text=f"older checkpoints are not deleted yet: {error}")


def _proven(part: Part) -> str:
    """The hash of a file that the helper told of, read once with its checksums."""
    examined = files.examine(part.held)
    if examined.whole is False:
        raise Changed(f"{part.path} is torn")
    return examined.digest


async def _create(store: Store, key: str, body: bytes) -> None:
    try:
        await store.create(key, body)
    except (Exists, Unanswered):
        if (await store.get(key)).data != body:
            raise Exists(f"{store.url}: {key} is there already with another content.") from None
