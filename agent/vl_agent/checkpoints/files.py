"""Checkpoint files on disk: which are whole, what step they hold, what they hash to.

A file's own marks are what counts, never its name alone: a save that was killed leaves names too.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

_UNFINISHED = (".tmp", ".part", ".partial", ".incomplete", ".lock")
SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
"""What tells a checkpoint whose name holds no number from any other file."""
_OTHERS = (".log", ".txt", ".csv", ".jsonl", ".yaml", ".yml", ".md", ".png", ".svg", ".html", ".py")
_STEP = re.compile(r"\d+")
_AFTER_STEP = re.compile(r"(?:step|iter|iteration)s?[-_=]?(\d+)", re.IGNORECASE)
_FRACTION = re.compile(r"\d+\.\d+")
_CHUNK = 4 << 20
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Stamp:
    """What a file was when it was looked at: equal stamps before and after reading mean that nobody wrote."""

    inode: int
    size: int
    mtime_ns: int

    @staticmethod
    def of(path: Path) -> Stamp:
        """Raises ``FileNotFoundError``."""
        stat = path.stat()
        return Stamp(stat.st_ino, stat.st_size, stat.st_mtime_ns)


def hidden_folder(folder: Path) -> Path:
    """Where the agent keeps what belongs to a checkpoint folder: on the same file system, so that links and renames
    work, and out of the sight of scripts that list the folder. Beside it; inside it where it is a mount of its own."""
    place = folder.resolve()
    if place.exists() and place.stat().st_dev != place.parent.stat().st_dev:
        return place / ".vl"
    return place.parent / f".{place.name}.vl"


def is_candidate(name: str) -> bool:
    """Whether a file of this name may be a checkpoint: temporary and hidden ones are saves under way, and some are
    written beside checkpoints by everybody, with numbers in their names."""
    return not name.startswith((".", "events.out.")) and not name.endswith((*_UNFINISHED, *_OTHERS))


def step_of(name: str) -> int | None:
    """The number after ``step`` or ``iter`` in a name, else the last whole one: ``step-000000040.pt``,
    ``model_000040.pt``, ``checkpoint-40``, ``epoch=1-step=40-loss=0.25.ckpt``."""
    if name.endswith(SUFFIXES):
        name = name.rpartition(".")[0]
    found = _AFTER_STEP.findall(name) or _STEP.findall(_FRACTION.sub("", name))
    return int(found[-1][-12:]) if found else None


def has_checksums(path: Path) -> bool:
    """Whether the file is of a kind (zip, as torch.save writes) whose checksums and directory, which is written last,
    prove it whole while somebody may still write it."""
    with path.open("rb") as file:
        return file.read(4) == _ZIP


def whole(path: Path) -> bool | None:
    """True: proven by the file's own checksums or lengths. False: torn. None: it has none, nobody can tell."""
    with path.open("rb") as file:
        start = file.read(8)
        if start[:4] == _ZIP:
            return _zip_whole(path)
        if path.suffix == ".safetensors":
            return _safetensors_whole(path, start)
    return None


def _zip_whole(path: Path) -> bool:
    """torch.save: the central directory is written last, and every member carries a CRC that no loader checks."""
    try:
        with zipfile.ZipFile(path) as archive:
            if all(member.CRC == 0 for member in archive.infolist() if member.file_size):
                return True  # saved with CRCs turned off: the directory is all there is
            return archive.testzip() is None
    except Exception:  # noqa: BLE001 - each way of packing has errors of its own; no whole file raises any
        return False


def _safetensors_whole(path: Path, start: bytes) -> bool:
    if len(start) < 8:
        return False
    length = struct.unpack("<Q", start)[0]
    size = path.stat().st_size
    if length > min(size, 100 << 20):
        return False
    try:
        with path.open("rb") as file:
            file.seek(8)
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(8 + length + max(ends, default=0) == size)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return False


def digest(path: Path) -> str:
    """BLAKE3 of a file's content, 64 hex digits. Blocks: about 7 GB/s from the page cache."""
    total = blake3()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def hold(path: Path, held: Path) -> Path:
    """Keep a file's content although its owner may delete it: a hard link at ``held``. Where links are not to be had
    the file itself is used. Raises ``FileNotFoundError`` when it is gone already."""
    try:
        held.parent.mkdir(parents=True, exist_ok=True)
        held.unlink(missing_ok=True)
        os.link(path, held)
    except OSError:
        if not path.exists():
            raise FileNotFoundError(path) from None
        return path
    return held
