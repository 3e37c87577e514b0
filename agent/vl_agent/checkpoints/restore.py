"""Makes the checkpoint folder equal to the head's checkpoint: fetched, hash-checked, everything else moved aside.

Nothing is deleted: what was there goes into a hidden folder on the same file system (``files.hidden_folder``), out of
the sight of scripts that resume from the newest file they find.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vl_agent import head as heads
from vl_agent.checkpoints import files
from vl_agent.checkpoints.pipeline import kept_before
from vl_agent.paths import sync_folder
from vl_agent.protocol import BlobRef, Head, Kept, Manifest, ProtocolError
from vl_agent.store import NotFound, Store, StoreError

Tell = Callable[..., None]


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


async def prefetch(store: Store, head: Head, cache: Path) -> int:
    """Fetch the head's checkpoint into ``cache`` ahead of the start. Returns its bytes. A bad one is left for
    ``restore`` to judge. Raises ``StoreError`` when the store can't be reached."""
    if head.checkpoint is None:
        return 0
    try:
        manifest = await _manifest(store, head.checkpoint)
        for ref in manifest.files:
            await _fetch(store, ref, cache)
    except Bad:
        return 0
    return sum(ref.size for ref in manifest.files)


async def restore(store: Store, head: Head, folder: Path, cache: Path, tell: Tell) -> Restored:
    """Put the newest usable checkpoint of ``head`` into ``folder``. Raises ``StoreError`` when the store can't be
    reached, ``OSError`` when the disk is full."""
    folder.mkdir(parents=True, exist_ok=True)
    bad: list[str] = []
    for entry in kept_before(head):
        began = time.monotonic()
        try:
            manifest = await _manifest(store, entry)
            total = sum(ref.size for ref in manifest.files)
            tell("restoring", step=entry.step, bytes=total)
            source = await _put(store, manifest, folder, cache, head.epoch)
        except Bad as why:
            tell("bad_checkpoint", step=entry.step, manifest=entry.manifest, why=str(why))
            bad.append(entry.manifest)
            continue
        moved = await asyncio.to_thread(_move_aside, folder, {ref.path for ref in manifest.files}, head.epoch)
        if moved:
            tell("moved_aside", paths=moved[:100])
        took = round(time.monotonic() - began, 3)
        tell("restored", step=entry.step, bytes=total, seconds=took, source=source)
        return Restored(entry.step, total, source, tuple(bad))
    moved = await asyncio.to_thread(_move_aside, folder, set(), head.epoch)
    if moved:
        tell("moved_aside", paths=moved[:100])
    if bad:
        tell("warning", text="none of the run's checkpoints can be used: it begins from nothing")
    tell("restored", step=None, bytes=0, seconds=0.0, source="")
    return Restored(None, 0, "", tuple(bad))


async def _manifest(store: Store, entry: Kept) -> Manifest:
    try:
        manifest = await heads.manifest(store, entry.manifest)
    except NotFound:
        raise Bad("its manifest is missing") from None
    except ProtocolError as error:
        raise Bad(f"its manifest can't be read: {error}") from None
    for ref in manifest.files:
        parts = PurePosixPath(ref.path).parts
        if not parts or ref.path.startswith("/") or ".." in parts or "\0" in ref.path or parts[0].startswith("."):
            raise Bad(f"its manifest names {ref.path!r}, which would not stay inside the folder")
    return manifest


async def _put(store: Store, manifest: Manifest, folder: Path, cache: Path, epoch: int) -> str:
    """All files of the manifest into ``folder``; those that are there with the right content stay."""
    source = "local"
    ready: list[tuple[Path, Path, int]] = []
    for ref in manifest.files:
        target = folder / ref.path
        if await asyncio.to_thread(_is(ref), target):
            continue
        found, source = await _fetch(store, ref, cache)
        ready.append((found, target, ref.mode))
    await asyncio.to_thread(_place, ready, folder, epoch)
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
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / ref.hash[:64].replace("/", "_")
    if await asyncio.to_thread(_is(ref), path):
        return path, "prefetched"
    part = path.with_name(f".{path.name}.part")
    try:
        await store.get_file(ref.key, part, ref.size)
    except NotFound:
        raise Bad(f"the blob of {ref.path} is missing") from None
    except StoreError:
        size = next((entry.size for entry in await store.list(ref.key) if entry.key == ref.key), None)
        if size == ref.size:
            raise  # the store's trouble, not the blob's
        part.unlink(missing_ok=True)
        raise Bad(f"the blob of {ref.path} has {size} bytes, its manifest says {ref.size}") from None
    if await asyncio.to_thread(files.digest, part) != ref.hash:
        part.unlink()
        raise Bad(f"the blob of {ref.path} is not what was saved: its hash differs")
    os.replace(part, path)
    return path, "store"


def _place(ready: list[tuple[Path, Path, int]], folder: Path, epoch: int) -> None:
    """Bring each file to a temporary name on the folder's own file system, fsynced, then rename."""
    for found, target, mode in ready:
        if target.is_dir() and not target.is_symlink():
            _aside(target, folder, epoch)
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name}.vl-new")
        try:
            os.replace(found, new)  # its bytes were synced when they were fetched
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(found, new)
        new.chmod(mode & 0o777)
        os.replace(new, target)
        sync_folder(target.parent)
    sync_folder(folder)


def _copy(found: Path, new: Path) -> None:
    with found.open("rb") as source, new.open("wb") as sink:
        shutil.copyfileobj(source, sink, 4 << 20)
        sink.flush()
        os.fsync(sink.fileno())


def _move_aside(folder: Path, keep: set[str], epoch: int) -> list[str]:
    """Move everything that is not in ``keep`` out of a script's sight. Returns what was moved."""
    tops = {PurePosixPath(path).parts[0] for path in keep}
    hidden = files.hidden_folder(folder)
    moved = []
    for entry in sorted(folder.iterdir()):
        if entry.resolve() != hidden and entry.name not in tops:
            _aside(entry, folder, epoch)
            moved.append(entry.name)
    return moved


def _aside(entry: Path, folder: Path, epoch: int) -> None:
    aside = files.hidden_folder(folder) / "aside" / str(epoch)
    aside.mkdir(parents=True, exist_ok=True)
    target, number = aside / entry.name, 1
    while os.path.lexists(target):
        number += 1
        target = aside / f"{entry.name}~{number}"
    os.replace(entry, target)
