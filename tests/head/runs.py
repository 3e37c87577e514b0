"""A run's head in a store in memory, as its writers bring it along when nothing goes wrong."""

from __future__ import annotations

from vl_agent import head as heads
from vl_agent.protocol import BlobRef, CheckpointPolicy, Head, Kept, Manifest, RunSpec, blob_key, encode, manifest_key

from tests.store.memory import MemoryStore

RUN = "run"
SPEC = RunSpec(RUN, "fleet", "python train.py", CheckpointPolicy("ckpt"))


async def submitted() -> MemoryStore:
    store = MemoryStore()
    await heads.submit(store, SPEC)
    await heads.stamp(store, RUN, generation=1)
    return store


async def token(store: MemoryStore, launch: int = 1) -> Head:
    """The controller gives the next epoch to a launch's box."""
    seen, _ = await heads.read(store, RUN)
    return await heads.start(store, RUN, launch=launch, generation=seen.generation, expect_epoch=seen.epoch)


async def claimed(store: MemoryStore, launch: int = 1) -> Head:
    """A box holds the next epoch."""
    starting = await token(store, launch)
    return await heads.claim(store, RUN, epoch=starting.epoch, token=starting.holder)


async def uploaded(store: MemoryStore, mine: Head, step: int, content: str = "") -> Kept:
    """A checkpoint's blob and manifest, not named yet. The same ``content`` names the same blob."""
    digest = (content or f"step{step}").ljust(64, "0")
    kept = (entry.manifest for entry in (await heads.read(store, RUN))[0].kept)
    known = {ref.hash: ref for key in kept for ref in (await heads.manifest(store, key)).files}
    ref = known.get(digest) or BlobRef("model.pt", 4, digest, blob_key(RUN, digest, mine.epoch, step))
    if digest not in known:
        await store.put(ref.key, b"body")
    key = manifest_key(RUN, step, mine.epoch, step)
    await store.create(key, encode(Manifest(RUN, mine.epoch, step, "file", "model.pt", (ref,), 0.0)))
    return Kept(step, mine.epoch, key)


async def committed(
    store: MemoryStore, mine: Head, step: int, content: str = "", keep: int = 3, keep_every: int | None = None
) -> tuple[Kept, ...]:
    """A durable checkpoint; returns what its swap dropped."""
    kept = await uploaded(store, mine, step, content)
    _, dropped = await heads.commit(
        store, RUN, epoch=mine.epoch, holder=mine.holder, kept=kept, keep=keep, keep_every=keep_every
    )
    return dropped


async def steps(store: MemoryStore) -> list[int]:
    return [entry.step for entry in (await heads.read(store, RUN))[0].kept]
