"""A run in a store in memory whose newest epoch the test holds: its checkpoint folder, pipeline and attempt."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blake3 import blake3
from vl_agent import head as heads
from vl_agent.attempt import Attempt
from vl_agent.checkpoints import restore as restoring
from vl_agent.checkpoints.pipeline import Pipeline
from vl_agent.checkpoints.watch import Watch
from vl_agent.paths import EpochFolder
from vl_agent.protocol import (
    BlobRef,
    CheckpointPolicy,
    Head,
    Kept,
    Manifest,
    RunSpec,
    blob_key,
    decode,
    encode,
    head_key,
    manifest_key,
)  # fmt: skip
from vl_agent.reach import Reach
from vl_agent.status import Status
from vl_agent.store import Exists

from tests.store.memory import Memory, MemoryStore

RUN = "char"


def torch_like(words: str) -> bytes:
    """What torch.save makes of it: a zip, whose members carry checksums. Equal words, equal bytes."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr(zipfile.ZipInfo("state"), words)
    return whole.getvalue()


class Told(list[tuple[str, dict[str, Any]]]):
    """Events as they are told."""

    def tell(self, kind: str, **fields: Any) -> None:
        self.append((kind, fields))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self if name == kind]

    def kinds(self, *wanted: str) -> list[str]:
        return [kind for kind, _ in self if not wanted or kind in wanted]


class Held:
    """``begin`` first."""

    def __init__(self, folder: Path, store: MemoryStore | None = None) -> None:
        self.folder = folder
        self.store = store or MemoryStore()
        self.work = folder / "work"
        self.checkpoints = self.work / "ckpt"
        self.told = Told()
        self.status = Status(0)
        self.head: Head
        self._put = 0

    @property
    def memory(self) -> Memory:
        return self.store.memory

    async def begin(self, command: str = "true", **fields: Any) -> Head:
        """Submit where it is not, and take the next epoch."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.spec = RunSpec(RUN, "test", command, CheckpointPolicy("ckpt", keep=fields.pop("keep", 3)), **fields)
        with contextlib.suppress(Exists):  # as `vl-agent run`: the newest word counts
            await heads.submit(self.store, self.spec)
        self.head = await heads.takeover(self.store, RUN)
        return self.head

    async def now(self) -> Head:
        return (await heads.read(self.store, RUN))[0]

    def head_in_store(self) -> Head:
        """Without a request."""
        return decode(Head, self.memory.objects[head_key(RUN)])

    # ------------------------------------------------------------------------------------------------- by hand

    async def keep(self, step: int, /, files: dict[str, bytes] | None = None, **changes: Any) -> Manifest:
        """A durable checkpoint, put there by hand. ``changes``: to the fields of its manifest."""
        self._put += 1
        refs = []
        for path, data in (files or {f"step-{step}.pt": torch_like(f"step {step}")}).items():
            digest = blake3(data).hexdigest()
            key = blob_key(RUN, digest, self.head.epoch, self._put)
            self.memory.objects[key] = data
            refs.append(BlobRef(path, len(data), digest, key))
        manifest = replace(Manifest(RUN, self.head.epoch, step, "file", refs[0].path, tuple(refs), 0.0), **changes)
        await self.keep_manifest(step, encode(manifest))
        return manifest

    async def keep_manifest(self, step: int, body: bytes | None) -> str:
        """The head names a manifest of these bytes; None: of none. Returns its key."""
        self._put += 1
        key = manifest_key(RUN, step, self.head.epoch, self._put)
        if body is not None:
            self.memory.objects[key] = body
        self.head, _ = await heads.commit(
            self.store,
            RUN,
            epoch=self.head.epoch,
            holder=self.head.holder,
            kept=Kept(step, self.head.epoch, key),
            keep=9,
        )
        return key

    async def restore(self, cache: Path | None = None) -> restoring.Restored:
        return await restoring.restore(
            self.store, RUN, await self.now(), self.checkpoints, cache or self.folder / "cache", self.told.tell
        )

    def on_disk(self) -> dict[str, bytes]:
        """Checkpoint files by path."""
        found = (path for path in self.checkpoints.rglob("*") if path.is_file())
        return {path.relative_to(self.checkpoints).as_posix(): path.read_bytes() for path in found}

    # ------------------------------------------------------------------------------------------------ with a pipeline

    def save(self, step: int, words: str = "") -> Path:
        """As a script does: by rename."""
        part = self.checkpoints / f".step-{step}.pt.tmp"
        part.write_bytes(torch_like(words or f"step {step}"))
        return part.rename(self.checkpoints / f"step-{step}.pt")

    def pipeline(
        self, *, keep: int = 3, distrusted: Sequence[str] = (), swept: Callable[[], bool] = lambda: True
    ) -> Pipeline:
        watch = Watch(self.checkpoints)
        watch.ignore_present()
        reach = Reach(self.status, self.told.tell)
        return Pipeline(
            self.store, RUN, self.head, watch, reach, keep=keep, tell=self.told.tell, swept=swept,
            distrusted=distrusted,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def running(self, pipeline: Pipeline) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(pipeline.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def brought(self, pipeline: Pipeline) -> None:
        """All that is saved made durable, as at the end of a training."""
        async with self.running(pipeline) as task:
            await pipeline.close()
            await asyncio.wait_for(task, 20)

    def nothing_held(self) -> bool:
        """Of what was saved nothing is kept on this disk any longer for its upload."""
        return list((self.work / ".ckpt.vl" / "hold").iterdir()) == []

    # ------------------------------------------------------------------------------------------------ with a training

    def attempt(self, wall: Callable[[], float] = time.time, **secrets: str) -> Attempt:
        where = EpochFolder(self.folder / f"epoch-{self.head.epoch}")
        return Attempt(
            self.store, self.spec, self.head, where, self.work, self.folder / "control", self.folder / "training.json",
            self.folder / "cache", self.status, secrets, wall,
        )  # fmt: skip

    def checked(self) -> None:
        """Invariant 3, as the store is now: all that the head names is there, whole."""
        head = self.head_in_store()
        for entry in {*head.kept, *([head.checkpoint] if head.checkpoint else [])}:
            assert entry.manifest in self.memory.objects, f"no manifest of step {entry.step}"
            for ref in decode(Manifest, self.memory.objects[entry.manifest]).files:
                assert ref.key in self.memory.objects, f"no blob of step {entry.step}"
                assert blake3(self.memory.objects[ref.key]).hexdigest() == ref.hash, f"step {entry.step} is not whole"
