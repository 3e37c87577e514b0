"""From saved to durable: hold, hash, upload, manifest, one swap of the head, then deletion of what that released.

Only the newest save waits: while one is uploaded or the store is out of reach, later ones replace each other.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from vl_agent import head as heads
from vl_agent.checkpoints import files
from vl_agent.checkpoints.files import Stamp
from vl_agent.checkpoints.watch import Saved, Watch
from vl_agent.head import Fenced
from vl_agent.protocol import BlobRef, Head, Kept, Manifest, ProtocolError, blob_key, encode, manifest_key
from vl_agent.reach import Reach
from vl_agent.store import Exists, NotFound, Store, StoreError, Unanswered

LOOK_S = 0.3
_MOST_PAUSE_S = 5.0
_HURRIED_PAUSE_S = 0.5

Tell = Callable[..., None]


class Changed(Exception):
    """The file was written or deleted while it was read: this save is passed over."""


@dataclass(frozen=True)
class _Sent:
    """A save whose blob is in the store: what is left of its way may be asked again, byte for byte the same."""

    saved: Saved
    key: str
    manifest: Manifest
    bytes: int


class Pipeline:
    """The checkpoint path of one attempt. ``saved_step`` and ``durable_step`` are for the beat."""

    def __init__(
        self, store: Store, run: str, head: Head, watch: Watch, reach: Reach, *, keep: int, tell: Tell,
        keep_every: int | None = None, swept: Callable[[], bool], distrusted: Collection[str] = (),
        wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """``swept``: whether this epoch's sweep is over; until then no blob that is there already is named.
        ``distrusted``: manifests whose blobs were found missing or corrupt; nothing of theirs is named again."""
        self._store, self._run, self._watch = store, run, watch
        self._epoch, self._holder = head.epoch, head.holder
        self._reach, self._keep, self._keep_every, self._tell, self._wall = reach, keep, keep_every, tell, wall
        self._distrusted, self._swept = distrusted, swept
        self._hold = files.hidden_folder(watch.folder) / "hold"
        shutil.rmtree(self._hold, ignore_errors=True)  # a killed agent's
        self._waiting: Saved | None = None
        self._arrived = asyncio.Event()
        self._closing = False
        self._taken: dict[str, Stamp] = {}
        self._held = 0
        self._known: dict[tuple[str, int], BlobRef] | None = None
        self._counter = 0
        self._sent: _Sent | None = None
        self._busy: Saved | None = None
        self._most_pause_s = _MOST_PAUSE_S / 2
        self.saved_step: int | None = None
        self.durable_step = head.checkpoint.step if head.checkpoint else None

    @property
    def pending(self) -> Saved | None:
        """The save that is on its way and not durable yet."""
        return self._busy or self._waiting

    def hurry(self) -> None:
        """A notice came: from now on nothing is waited for but the store."""
        self._most_pause_s = _HURRIED_PAUSE_S

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

    async def close(self) -> None:
        """The command has ended: ``run`` returns once its newest save is durable. The store is asked until it answers;
        a save that is under way is not begun anew."""
        await self.look(patient=False)
        self._closing = True
        self._arrived.set()

    async def look(self, *, patient: bool = True) -> None:
        for found in await asyncio.to_thread(self._watch.look, patient=patient):
            self._take(found)
        for words in self._watch.complaints():
            self._tell("warning", text=words)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    def _take(self, found: Saved) -> None:
        """A save seen by the watch or told by the helper; the same one may come by both ways."""
        if self._taken.get(found.name) == found.stamp:
            return
        self._taken[found.name] = found.stamp
        step = found.step if found.step is not None else max(self.saved_step or 0, self.durable_step or 0) + 1
        self._tell("saved", step=step, name=found.name, bytes=found.stamp.size, took_s=found.took_s)
        self.saved_step = step
        if self.durable_step is not None and step < self.durable_step:
            self._tell("save_skipped", step=step, why=f"older than the durable step {self.durable_step}")
            return
        waiting = self._waiting
        if waiting is not None and waiting.step is not None and step < waiting.step:
            self._tell("save_skipped", step=step, why=f"older than step {waiting.step}, which waits")
            return
        self._held += 1
        try:
            held = files.hold(found.path, self._hold / f"{self._held}-{found.name}")
        except FileNotFoundError:
            self._tell("save_skipped", step=step, why="deleted at once")
            return
        if waiting is not None:
            self._drop(waiting)
        self._waiting = replace(found, step=step, path=held)
        self._arrived.set()

    async def _next(self, saved: Saved) -> None:
        """Make the waiting save durable; after a failure of the store it waits on, unless a newer one came."""
        self._waiting, self._busy = None, saved
        try:
            await self._commit(saved, saved.step or 0)
            self._reach.works("checkpoints")
            self._drop(saved)
        except Changed as why:
            self._tell("save_skipped", step=saved.step, why=str(why))
            self._drop(saved)
        except (StoreError, ProtocolError) as error:
            self._known = None  # the swap may have happened: what it dropped is not named again
            self._reach.failed("checkpoints", error)
            if self._waiting is None:
                self._waiting = saved
            else:
                self._drop(saved)
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
        kept = Kept(step, self._epoch, sent.key)
        try:
            _, dropped = await heads.commit(
                self._store, self._run, epoch=self._epoch, holder=self._holder, kept=kept, keep=self._keep,
                keep_every=self._keep_every,
            )  # fmt: skip
        except heads.Refused as why:
            raise Changed(str(why)) from None
        self.durable_step = step
        (ref,) = sent.manifest.files
        if self._known is not None:
            self._known[ref.hash, ref.size] = ref
        took = round(time.monotonic() - began, 3)
        self._tell("durable", step=step, manifest=sent.key, bytes=ref.size, sent=sent.bytes, took_s=took)
        await self._delete(dropped)

    async def _send(self, saved: Saved, step: int) -> _Sent:
        """The save's blob in the store, and the manifest that names it."""
        ref, sent = await self._blob(saved)
        self._counter += 1
        key = manifest_key(self._run, step, self._epoch, self._counter)
        return _Sent(saved, key, Manifest(self._run, self._epoch, step, "file", saved.name, (ref,), self._wall()), sent)

    async def _blob(self, saved: Saved) -> tuple[BlobRef, int]:
        """The file as a blob of the store; an unchanged one that a kept checkpoint names is not sent again."""
        try:
            if Stamp.of(saved.path) != saved.stamp:
                raise Changed("it was written again before it could be read")
            digest = await asyncio.to_thread(files.digest, saved.path)
            known = (await self._kept_blobs()).get((digest, saved.stamp.size))
            mode = saved.path.stat().st_mode & 0o777
            if known is not None:
                return BlobRef(saved.name, saved.stamp.size, digest, known.key, mode), 0
            self._counter += 1
            key = blob_key(self._run, digest, self._epoch, self._counter)
            await self._store.put_file(key, saved.path)
            if Stamp.of(saved.path) != saved.stamp:
                raise Changed("it was written while it was uploaded")
        except FileNotFoundError:
            raise Changed("it was deleted before it could be read") from None
        return BlobRef(saved.name, saved.stamp.size, digest, key, mode), saved.stamp.size

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

    def _drop(self, saved: Saved) -> None:
        if saved.path.parent == self._hold:
            saved.path.unlink(missing_ok=True)


async def _create(store: Store, key: str, body: bytes) -> None:
    try:
        await store.create(key, body)
    except (Exists, Unanswered):
        if (await store.get(key)).data != body:
            raise Exists(f"{store.url}: {key} is there already with another content.") from None
