"""Makes the checkpoint folder equal to the head's checkpoint: fetched, hash-checked, everything else moved aside.

Nothing is deleted: what was there goes into a hidden folder inside, on the same file system, out of the sight of
scripts that resume from the newest file they find.
"""

from __future__ import annotations

import asyncio
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
from vl_agent.store import NotFound, Store

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
    for entry in kept_before(head):
        began = time.monotonic()
        try:
            manifest = await _manifest(store, entry)
            total = sum(ref.size for ref in manifest.files)
            tell("restoring", step=entry.step, bytes=total)
            source = await _put(store, manifest, folder, cache)
        except Bad as why:
            tell("bad_checkpoint", step=entry.step, manifest=entry.manifest, why=str(why))
            continue
        moved = await asyncio.to_thread(_move_aside, folder, {ref.path for ref in manifest.files}, head.epoch)
        if moved:
            tell("moved_aside", paths=moved[:100])
        took = round(time.monotonic() - began, 3)
        tell("restored", step=entry.step, bytes=total, seconds=took, source=source)
        return Restored(entry.step, total, source)
    moved = await asyncio.to_thread(_move_aside, folder, set(), head.epoch)
    if moved:
        tell("moved_aside", paths=moved[:100])
    tell("restored", step=None, bytes=0, seconds=0.0, source="")
    return Restored(None, 0, "")


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


async def _put(store: Store, manifest: Manifest, folder: Path, cache: Path) -> str:
    """All files of the manifest into ``folder``; those that are there with the right content stay."""
    source = "local"
    ready: list[tuple[Path, Path, int]] = []
    for ref in manifest.files:
        target = folder / ref.path
        if await asyncio.to_thread(_is(ref), target):
            continue
        found, source = await _fetch(store, ref, cache)
        ready.append((found, target, ref.mode))
    await asyncio.to_thread(_place, ready, folder)
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
    if await asyncio.to_thread(files.digest, part) != ref.hash:
        part.unlink()
        raise Bad(f"the blob of {ref.path} is not what was saved: its hash differs")
    os.replace(part, path)
    return path, "store"


def _place(ready: list[tuple[Path, Path, int]], folder: Path) -> None:
    """Copy each file to a temporary name on the folder's own file system, fsync, rename."""
    for found, target, mode in ready:
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name}.vl-new")
        with found.open("rb") as source, new.open("wb") as sink:
            shutil.copyfileobj(source, sink, 4 << 20)
            sink.flush()
            os.fsync(sink.fileno())
        new.chmod(mode & 0o777)
        if target.is_dir() and not target.is_symlink():
            raise IsADirectoryError(f"{target} is a folder, the checkpoint has a file of that name")
        os.replace(new, target)
        sync_folder(target.parent)
    sync_folder(folder)


def _move_aside(folder: Path, keep: set[str], epoch: int) -> list[str]:
    """Move everything that is not in ``keep`` out of a script's sight. Returns what was moved."""
    tops = {PurePosixPath(path).parts[0] for path in keep}
    moved = []
    for entry in sorted(folder.iterdir()):
        if entry.name == ".vl" or entry.name in tops:
            continue
        aside = folder / ".vl" / "aside" / str(epoch)
        aside.mkdir(parents=True, exist_ok=True)
        os.replace(entry, _free(aside / entry.name))
        moved.append(entry.name)
    return moved


def _free(path: Path) -> Path:
    number = 1
    while path.exists() or path.is_symlink():
        number += 1
        path = path.with_name(f"{path.name.rpartition('~')[0] or path.name}~{number}")
    return path
