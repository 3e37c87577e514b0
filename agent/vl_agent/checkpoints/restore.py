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

from vl_agent.checkpoints import download, files, layouts, placing
from vl_agent.checkpoints.download import Bad
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
MOST_FILES = files.MOST_FILES
_BLOB = re.compile(r"[0-9a-zA-Z-]{1,200}")
_HASH = re.compile(r"[0-9a-f]{64}")


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
        missing = [ref for ref in manifest.files if not await asyncio.to_thread(_is(ref), cache / ref.hash)]
        await _check_blobs(store, run, missing, cache)
        await _fetch(store, missing, cache)
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
        _check_blob_names(run, ref)
    if why := files.misplaced(ref.path for ref in manifest.files):
        raise Bad(f"its manifest {why}")
    return manifest


def _check_blob_names(run: str, ref: BlobRef) -> None:
    prefix = blobs_prefix(run)
    for part in ref.pieces:
        named = part.key.startswith(prefix) and _BLOB.fullmatch(part.key.removeprefix(prefix))
        if not named or not _HASH.fullmatch(part.hash) or not _HASH.fullmatch(ref.hash):
            raise Bad(f"its manifest names {part.key[:200]!r}, which is no blob of this run")
        if part.size < 0:
            raise Bad(f"its manifest gives {ref.path[:200]!r} a part of {part.size} bytes")
    if sum(part.size for part in ref.pieces) != ref.size:
        raise Bad(f"its manifest gives {ref.path[:200]!r} {ref.size} bytes in parts that have not so many")


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
    for path, part in ((ref.path, part) for ref in refs for part in ref.pieces):
        if part.key not in present:
            raise Bad(f"the blob of {path} is missing")
        if present[part.key] != part.size:
            raise Bad(f"the blob of {path} has {present[part.key]} bytes, its manifest says {part.size}")
    cache.mkdir(parents=True, exist_ok=True)
    here = sum(begun.stat().st_blocks * 512 for ref in refs if (begun := download.begun(cache / ref.hash)).exists())
    if shutil.disk_usage(cache).free + here < sum({ref.hash: ref.size for ref in refs}.values()):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(cache))


async def _put(store: Store, run: str, manifest: Manifest, folder: Path, cache: Path, epoch: int) -> str:
    """All files of the manifest into ``folder``; those that are there with the right content stay."""
    wanted = [ref for ref in manifest.files if not await asyncio.to_thread(_is(ref), folder / ref.path)]
    missing = [ref for ref in wanted if not await asyncio.to_thread(_is(ref), cache / ref.hash)]
    await _check_blobs(store, run, missing, cache)
    await _fetch(store, missing, cache)
    ready = [(cache / ref.hash, folder / ref.path, ref.mode) for ref in wanted]
    await asyncio.to_thread(placing.place, ready, folder, epoch)
    await asyncio.to_thread(shutil.rmtree, cache, ignore_errors=True)
    return "store" if missing else "prefetched" if wanted else "local"


def _is(ref: BlobRef) -> Callable[[Path], bool]:
    def same(path: Path) -> bool:
        return (
            path.is_file() and not path.is_symlink() and path.stat().st_size == ref.size
            and files.digest(path) == ref.hash
        )  # fmt: skip

    return same


async def _fetch(store: Store, refs: Sequence[BlobRef], cache: Path) -> None:
    """Their contents as files in ``cache``, named by hash. Raises ``Bad``, ``StoreError``, ``OSError``."""
    by_content = {ref.hash: ref for ref in refs}
    await download.fetch(store, [(ref, cache / name) for name, ref in by_content.items()])
