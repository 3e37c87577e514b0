"""Makes the checkpoint folder equal to the head's checkpoint: fetched, hash-checked, everything else moved aside.

Nothing is deleted: what was there goes into a hidden folder on the same file system (``files.hidden_folder``), out of
the sight of scripts that resume from the newest file they find.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vl_agent.checkpoints import files, layouts, placing
from vl_agent.checkpoints.layouts.base import Pointer
from vl_agent.protocol import (
    BlobRef,
    Head,
    Kept,
    Manifest,
    ProtocolError,
    blobs_prefix,
    checkpoints_prefix,
    decode,
)  # fmt: skip
from vl_agent.store import NotFound, Store

Tell = Callable[..., None]

MOST_MANIFEST = 32 << 20
MOST_FILES = 100_000
_BLOB = re.compile(r"[0-9a-zA-Z-]{1,200}")
_HASH = re.compile(r"[0-9a-f]{64}")


class Bad(Exception):
    """This checkpoint can't be used: a blob is missing or is not what its manifest says."""


@dataclass(frozen=True)
class Restored:
    step: int | None
    """None: there is nothing to resume from."""
    bytes: int
    source: str
    """store, prefetched or local: where the last of its files came from."""
    bad: tuple[str, ...] = ()
    """Manifests that were found missing or corrupt on the way."""


async def prefetch(store: Store, run: str, head: Head, cache: Path) -> int:
    """Fetch the head's checkpoint into ``cache`` ahead of the start. Returns its bytes. A bad one is left for
    ``restore`` to judge. Raises ``StoreError`` when the store can't be reached, ``OSError`` when the disk is full."""
    if head.checkpoint is None:
        return 0
    try:
        manifest = await _manifest(store, run, head.checkpoint)
        await _check_blobs(store, run, manifest.files, cache)
        for ref in manifest.files:
            await _fetch(store, ref, cache)
    except Bad:
        return 0
    return sum(ref.size for ref in manifest.files)


async def restore(store: Store, run: str, head: Head, folder: Path, cache: Path, tell: Tell) -> Restored:
    """Put the newest usable checkpoint of ``head`` into ``folder``. Raises ``StoreError`` when the store can't be
    reached, ``OSError`` when the disk is full."""
    folder.mkdir(parents=True, exist_ok=True)
    bad: list[str] = []
    for entry in passed_over(head):
        tell("passed_over", step=entry.step, manifest=entry.manifest, why=entry.suspect)
    for entry in kept_before(head):
        began = time.monotonic()
        try:
            manifest = await _manifest(store, run, entry)
            total = sum(ref.size for ref in manifest.files)
            tell("restoring", step=entry.step, bytes=total)
            source = await _put(store, run, manifest, folder, cache, head.epoch)
        except Bad as why:
            tell("bad_checkpoint", step=entry.step, manifest=entry.manifest, why=str(why))
            bad.append(entry.manifest)
            continue
        pointers = _pointers(manifest)
        keep = {ref.path for ref in manifest.files}
        moved = await asyncio.to_thread(placing.move_aside, folder, keep, {p.path for p in pointers}, head.epoch)
        await asyncio.to_thread(placing.point, pointers, folder)
        if moved:
            tell("moved_aside", paths=moved[:100])
        took = round(time.monotonic() - began, 3)
        tell("restored", step=entry.step, bytes=total, seconds=took, source=source)
        return Restored(entry.step, total, source, tuple(bad))
    moved = await asyncio.to_thread(placing.move_aside, folder, set(), set(), head.epoch)
    if moved:
        tell("moved_aside", paths=moved[:100])
    if bad:
        tell("warning", text="none of the run's checkpoints can be used: it begins from nothing")
    tell("restored", step=None, bytes=0, seconds=0.0, source="")
    return Restored(None, 0, "", tuple(bad))


def kept_before(head: Head) -> list[Kept]:
    """The head's checkpoint, then the kept ones before it, newest first: in this order they are tried on restore. A
    suspect one is only there when a person went back to it."""
    if head.checkpoint is None:
        return []
    newest = head.checkpoint
    older = [e for e in head.kept if e.manifest != newest.manifest and e.step <= newest.step and not e.suspect]
    return [newest, *sorted(older, key=lambda entry: (entry.step, entry.epoch), reverse=True)]


def passed_over(head: Head) -> list[Kept]:
    """The suspect checkpoints after the head's: newer, and not resumed from."""
    step = head.checkpoint.step if head.checkpoint else 0
    return [entry for entry in head.kept if entry.suspect and entry.step >= step and entry != head.checkpoint]


async def _manifest(store: Store, run: str, entry: Kept) -> Manifest:
    """The manifest, checked: nothing that it says may lead out of the folder or to another run."""
    if not entry.manifest.startswith(checkpoints_prefix(run)):
        raise Bad("its manifest is not this run's")
    try:
        body = await store.get_range(entry.manifest, 0, MOST_MANIFEST + 1)
        if len(body) > MOST_MANIFEST:
            raise Bad(f"its manifest has more than {MOST_MANIFEST >> 20} MiB")
        manifest = decode(Manifest, body)
    except NotFound:
        raise Bad("its manifest is missing") from None
    except ProtocolError as error:
        raise Bad(f"its manifest can't be read: {error}") from None
    if (manifest.run, manifest.step) != (run, entry.step):
        raise Bad("its manifest is another checkpoint's")
    if not manifest.files or len(manifest.files) > MOST_FILES:
        raise Bad(f"its manifest names {len(manifest.files)} files")
    for ref in manifest.files:
        if not _BLOB.fullmatch(ref.key.removeprefix(blobs_prefix(run))) or not _HASH.fullmatch(ref.hash):
            raise Bad(f"its manifest names {ref.key[:200]!r}, which is no blob of this run")
    if why := files.misplaced(ref.path for ref in manifest.files):
        raise Bad(f"its manifest {why}")
    return manifest


def _pointers(manifest: Manifest) -> tuple[Pointer, ...]:
    """What must point at this checkpoint; nothing where its layout is not known here."""
    layout = layouts.named(manifest.layout)
    paths = [ref.path for ref in manifest.files]
    pointers = layout.pointers(paths, manifest.step) if layout else ()
    return () if files.misplaced([*paths, *(pointer.path for pointer in pointers)]) else pointers


async def _check_blobs(store: Store, run: str, refs: Sequence[BlobRef], cache: Path) -> None:
    """That the blobs are there, of the sizes that the manifest says, and that they fit on this disk. Raises ``Bad``,
    ``OSError``."""
    present = {entry.key: entry.size for entry in await store.list(blobs_prefix(run))}
    for ref in refs:
        if ref.key not in present:
            raise Bad(f"the blob of {ref.path} is missing")
        if present[ref.key] != ref.size:
            raise Bad(f"the blob of {ref.path} has {present[ref.key]} bytes, its manifest says {ref.size}")
    cache.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(cache).free < sum({ref.hash: ref.size for ref in refs}.values()):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(cache))


async def _put(store: Store, run: str, manifest: Manifest, folder: Path, cache: Path, epoch: int) -> str:
    """All files of the manifest into ``folder``; those that are there with the right content stay."""
    source = "local"
    wanted = [ref for ref in manifest.files if not await asyncio.to_thread(_is(ref), folder / ref.path)]
    missing = [ref for ref in wanted if not await asyncio.to_thread(_is(ref), cache / ref.hash)]
    await _check_blobs(store, run, missing, cache)
    ready: list[tuple[Path, Path, int]] = []
    for ref in wanted:
        found, source = await _fetch(store, ref, cache)
        ready.append((found, folder / ref.path, ref.mode))
    await asyncio.to_thread(placing.place, ready, folder, epoch)
    await asyncio.to_thread(shutil.rmtree, cache, ignore_errors=True)
    return source


def _is(ref: BlobRef) -> Callable[[Path], bool]:
    def same(path: Path) -> bool:
        return (
            path.is_file() and not path.is_symlink() and path.stat().st_size == ref.size
            and files.digest(path) == ref.hash
        )  # fmt: skip

    return same


async def _fetch(store: Store, ref: BlobRef, cache: Path) -> tuple[Path, str]:
    """The blob's content as a file in ``cache``, checked. Raises ``Bad``."""
    path = cache / ref.hash
    if await asyncio.to_thread(_is(ref), path):
        return path, "prefetched"
    part = path.with_name(f".{path.name}.part")
    try:
        await store.get_file(ref.key, part, ref.size)
    except NotFound:
        raise Bad(f"the blob of {ref.path} is missing") from None
    if await asyncio.to_thread(files.digest, part) != ref.hash:
        part.unlink()
        raise Bad(f"the blob of {ref.path} is not what was saved: its hash differs")
    os.replace(part, path)
    return path, "store"
