"""The working folder as one tar that is the same bytes for the same files, so that a second submit sends nothing."""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import blake3

from vl_tui.failure import Refused

MAX_BYTES = 512 << 20
"""Every box fetches the tar before it starts: data sets don't belong in it."""

IGNORED = (
    ".git", ".hg", ".svn", "__pycache__", "*.pyc", ".venv", "venv", "node_modules", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", ".ipynb_checkpoints", ".DS_Store", ".env", ".netrc",
)  # fmt: skip
"""Never packed. The last two usually hold secrets, and the tar lies in the store: `secrets:` is the way for those."""

IGNORE_FILE = ".vlignore"

_MTIME = 315_532_800
"""1980-01-01: zip files, which setup commands like to make, can't tell of an earlier day."""


@dataclass(frozen=True)
class Packed:
    digest: str
    """BLAKE3 of the tar, 64 hex digits."""
    size: int
    files: int
    left_out: tuple[str, ...]
    """What can't travel: links that lead out of the folder, sockets, devices."""


def pack(folder: Path, target: Path, *, ignore: tuple[str, ...] = ()) -> Packed:
    """Write ``folder`` as a tar to ``target``. Raises ``Refused`` when it is too large or a file changes meanwhile."""
    entries, left_out = _entries(folder, (*IGNORED, *ignore, *_ignore_file(folder)))
    _check_size(folder, entries)
    with target.open("w+b") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for entry in entries:
                _add(tar, folder, entry)
        return Packed(_digest(file), file.tell(), len(entries), tuple(left_out))


def _ignore_file(folder: Path) -> tuple[str, ...]:
    try:
        text = (folder / IGNORE_FILE).read_text(errors="surrogateescape")
    except FileNotFoundError:
        return ()
    return tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))


def _entries(folder: Path, patterns: tuple[str, ...]) -> tuple[list[PurePosixPath], list[str]]:
    """Files, links and folders to pack, sorted, relative to ``folder``; and what can't be packed."""
    taken: list[PurePosixPath] = []
    left_out: list[str] = []
    for path, mode in _walk(folder, PurePosixPath(), patterns):
        fits = stat.S_ISREG(mode) or stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and _stays_inside(folder, path))
        if fits:
            taken.append(path)
        else:
            left_out.append(str(path))
    return taken, left_out


def _walk(folder: Path, below: PurePosixPath, patterns: tuple[str, ...]) -> Iterator[tuple[PurePosixPath, int]]:
    for name in sorted(os.listdir(folder / below)):
        path = below / name
        mode = (folder / path).lstat().st_mode
        if is_ignored(path, patterns):
            continue
        yield path, mode
        if stat.S_ISDIR(mode):
            yield from _walk(folder, path, patterns)


def is_ignored(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    """A pattern with a slash in it is matched against the whole path, one without against the name alone."""
    for pattern in patterns:
        plain = pattern.rstrip("/")
        whole = "/" in plain
        if fnmatch.fnmatchcase(str(path) if whole else path.name, plain.lstrip("/")):
            return True
    return False


def _stays_inside(folder: Path, path: PurePosixPath) -> bool:
    target = os.readlink(folder / path)
    if os.path.isabs(target):
        return False
    landed = os.path.normpath(os.path.join(path.parent, target))
    return landed != ".." and not landed.startswith("../")


def _check_size(folder: Path, entries: list[PurePosixPath]) -> None:
    sizes = {entry: (folder / entry).lstat().st_size for entry in entries if not (folder / entry).is_dir()}
    if sum(sizes.values()) <= MAX_BYTES:
        return
    largest = sorted(sizes, key=lambda entry: -sizes[entry])[:3]
    named = ", ".join(f"{entry} ({sizes[entry] / 1e6:.0f} MB)" for entry in largest)
    raise Refused(
        f"{folder}: the working folder holds {sum(sizes.values()) / 1e6:.0f} MB, more than the {MAX_BYTES / 1e6:.0f} MB"
        f" that travel with a run. Largest: {named}. List what isn't code in {IGNORE_FILE}, and fetch data in `setup`."
    )


def _add(tar: tarfile.TarFile, folder: Path, entry: PurePosixPath) -> None:
    path = folder / entry
    try:
        info = tar.gettarinfo(str(path), arcname=str(entry))
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = _MTIME
        info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
        if info.islnk():  # a second name of a file already packed: packed again, as a file of its own
            info.type, info.linkname, info.size = tarfile.REGTYPE, "", path.stat().st_size
        if not info.isreg():
            tar.addfile(info)
            return
        with path.open("rb") as source:
            tar.addfile(info, source)
    except (OSError, tarfile.TarError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        why = getattr(error, "strerror", None) or "it changed while it was read"
        raise Refused(f"{path} can't be packed: {why}. Mend it, or list it in {IGNORE_FILE}.") from None


def _digest(file: IO[bytes]) -> str:
    digest = blake3.blake3()
    file.flush()
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
