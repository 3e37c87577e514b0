"""Puts a checkpoint's files into the checkpoint folder, moves all else out of the training's sight, and last of all
makes what the framework reads first (``latest``, a tracker, a link) point at it."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vl_agent.checkpoints import files
from vl_agent.checkpoints.layouts.base import Pointer
from vl_agent.paths import sync_folder


def place(ready: Sequence[tuple[Path, Path, int]], folder: Path, epoch: int) -> None:
    """Bring each file (found, target, mode) to a temporary name on the folder's own file system, fsynced, then rename,
    in their order."""
    uses = Counter(found for found, _, _ in ready)
    for found, target, mode in ready:
        for there in (target, *target.parents):
            if there == folder:
                break
            if there.is_symlink() or (there == target and there.is_dir()) or (there != target and there.is_file()):
                _aside(there, folder, epoch)
        target.parent.mkdir(parents=True, exist_ok=True)
        new = _temporary(target)
        uses[found] -= 1
        try:
            if uses[found]:  # two files of the same content
                _copy(found, new)
            else:
                os.replace(found, new)  # its bytes were synced when they were fetched
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(found, new)
        new.chmod(mode & 0o777 | 0o600)
        os.replace(new, target)
        sync_folder(target.parent)
    sync_folder(folder)


def move_aside(folder: Path, keep: set[str], pointers: set[str], epoch: int) -> list[str]:
    """Move everything that is not in ``keep`` out of a script's sight, also what lies in a folder of the checkpoint's
    own; files and links at ``pointers`` stay until they are replaced. Returns what was moved."""
    folders = {parent.as_posix() for path in keep for parent in PurePosixPath(path).parents}
    moved: list[str] = []
    _move_from(folder, "", folder, keep | pointers, folders, epoch, moved)
    return moved


def point(pointers: Sequence[Pointer], folder: Path) -> None:
    """Write what points at the checkpoint: a reader sees the old word or the new one, whole."""
    for pointer in pointers:
        target = folder / pointer.path
        new = _temporary(target)
        new.unlink(missing_ok=True)
        if pointer.link is not None:
            new.symlink_to(pointer.link)
        else:
            with new.open("x") as file:
                file.write(pointer.text or "")
                file.flush()
                os.fsync(file.fileno())
        os.replace(new, target)
    if pointers:
        sync_folder(folder)


def _move_from(
    here: Path, prefix: str, folder: Path, keep: set[str], folders: set[str], epoch: int, moved: list[str]
) -> None:
    hidden = files.hidden_folder(folder)
    for entry in sorted(here.iterdir()):
        path = prefix + entry.name
        if entry.resolve() == hidden or (path in keep and (entry.is_symlink() or not entry.is_dir())):
            continue
        if path in folders and entry.is_dir() and not entry.is_symlink():
            _move_from(entry, f"{path}/", folder, keep, folders, epoch, moved)
            continue
        _aside(entry, folder, epoch)
        moved.append(path)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name[:200]}.vl-new")


def _copy(found: Path, new: Path) -> None:
    with found.open("rb") as source, new.open("wb") as sink:
        shutil.copyfileobj(source, sink, 4 << 20)
        sink.flush()
        os.fsync(sink.fileno())


def _aside(entry: Path, folder: Path, epoch: int) -> None:
    """Out of sight, under its path in the checkpoint folder; a second one of that path gets a number."""
    path, aside = entry.relative_to(folder), files.hidden_folder(folder) / "aside" / str(epoch)
    target = aside / path
    if any(parent.exists() and not parent.is_dir() for parent in target.parents):  # a file stands in its way
        target = aside / "_".join(path.parts)
    number, first = 1, target
    while os.path.lexists(target):
        number += 1
        target = first.with_name(f"{first.name}~{number}")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(entry, target)
