"""Checkpoint files on disk: which are whole, what step they hold, what they hash to.

A file's own marks are what counts, never its name alone: a save that was killed leaves names too. Every file is read
once: its checksums, where it has some, are checked in the same read as its hash.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import pickletools
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from blake3 import blake3

UNFINISHED = (".tmp", ".part", ".partial", ".incomplete")
SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
"""What tells a checkpoint whose name holds no number from any other file."""
BINARY = (*SUFFIXES, ".bin", ".distcp", ".pkl", ".npz")
"""Files that are never empty and never begin with zeros: what a crash of the machine leaves does."""
MOST_FILES = 100_000
"""Files of one checkpoint."""
_OTHERS = (".lock", ".log", ".txt", ".csv", ".jsonl", ".yaml", ".yml", ".md", ".png", ".svg", ".html", ".py")
_STEP = re.compile(r"\d+")
_AFTER_STEP = re.compile(r"(?:step|iter|iteration)s?[-_=]?(\d+)", re.IGNORECASE)
_FRACTION = re.compile(r"\d+\.\d+")
_CHUNK = 4 << 20
_ZIP = b"PK\x03\x04"
_LOCAL = struct.Struct("<4s22xHH")
_END_OF_ZIP = 22
_MOST_TEXT = 64 << 20
_MOST_NAME = 240


@dataclass(frozen=True)
class Stamp:
    """What a file was when it was looked at: equal stamps before and after reading mean that nobody wrote."""

    inode: int
    size: int
    mtime_ns: int

    @staticmethod
    def of(path: Path) -> Stamp:
        """Raises ``FileNotFoundError``."""
        return Stamp.from_stat(path.stat())

    @staticmethod
    def from_stat(stat: os.stat_result) -> Stamp:
        return Stamp(stat.st_ino, stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` up to ``end`` of a file, and the CRC-32 that was saved beside them."""

    start: int
    end: int
    crc: int


@dataclass(frozen=True)
class Examined:
    whole: bool | None
    """True: proven by the file's own checksums or lengths. False: torn. None: it has none, nobody can tell."""
    digest: str
    """BLAKE3 of what was read; empty where a torn file was not read to its end."""


# ------------------------------------------------------------------------------------------------------------- names


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
    return not name.startswith((".", "events.out.")) and not name.endswith((*UNFINISHED, *_OTHERS))


def step_of(name: str) -> int | None:
    """The number after ``step`` or ``iter`` in a name, else the last whole one: ``step-000000040.pt``,
    ``model_000040.pt``, ``checkpoint-40``, ``epoch=1-step=40-loss=0.25.ckpt``."""
    if name.endswith(SUFFIXES):
        name = name.rpartition(".")[0]
    found = _AFTER_STEP.findall(name) or _STEP.findall(_FRACTION.sub("", name))
    return int(found[-1][-12:]) if found else None


def misplaced(paths: Iterable[str]) -> str:
    """Why these paths can't be files of one checkpoint folder, or nothing: each stays inside it and in sight (but for
    ``.metadata``, which a distributed checkpoint of torch has), none is there twice or below another."""
    seen: set[tuple[str, ...]] = set()
    for path in paths:
        parts = PurePosixPath(path).parts
        inside = parts and not path.startswith("/") and ".." not in parts
        in_sight = parts and (not parts[0].startswith(".") or path == ".metadata")
        if not inside or not in_sight or not path.isprintable() or any(len(p.encode()) > _MOST_NAME for p in parts):
            return f"names {path[:200]!r}, which would not stay inside the folder"
        if parts in seen:
            return f"names {path!r} twice"
        seen.add(parts)
    for parts in seen:
        if any(parts[:end] in seen for end in range(1, len(parts))):
            return f"names {'/'.join(parts)!r} below another file"
    return ""


# ------------------------------------------------------------------------------------------------------------- whole


def examine(path: Path, spans: Sequence[Span] = ()) -> Examined:
    """Read the file once: is it whole, what does it hash to? ``spans``: its checksums, where another file says them.
    Raises ``OSError`` when it can't be read."""
    verdict, inside = (True, []) if spans else _marks(path)
    if verdict is False:
        return Examined(False, "")
    found = _read(path, sorted([*inside, *spans], key=lambda span: (span.start, span.end)))
    return Examined(verdict if found else False, found)


def digest(path: Path) -> str:
    """BLAKE3 of a file's content, 64 hex digits. Blocks: about 7 GB/s from the page cache."""
    return _read(path, [])


def zip_spans(file: BinaryIO, start: int, end: int) -> list[Span] | None:
    """The checksums of the archive in these bytes of an open file, or None: it is torn. torch.save writes the
    directory last, and a CRC of every member that no loader checks."""
    window = _Window(file, start, end)
    spans = []
    try:
        with zipfile.ZipFile(window) as archive:
            members = [one for one in archive.infolist() if one.file_size or one.compress_size or one.CRC]
            checked = any(member.CRC for member in members)  # else saved with CRCs turned off: the directory is all
            for member in members:
                with archive.open(member) as content:  # raises when its own header says another name
                    while member.compress_type != zipfile.ZIP_STORED and content.read(_CHUNK):
                        pass  # raises on a wrong CRC
                if member.compress_type != zipfile.ZIP_STORED:
                    continue
                window.seek(member.header_offset)
                mark, name, extra = _LOCAL.unpack(window.read(_LOCAL.size))
                data = start + member.header_offset + _LOCAL.size + name + extra
                if mark != _ZIP or member.compress_size != member.file_size or data + member.file_size > end:
                    return None
                if checked:
                    spans.append(Span(data, data + member.file_size, member.CRC))
    except Exception:  # noqa: BLE001 - each way of packing has errors of its own; no whole file raises any
        return None
    return spans


def _marks(path: Path) -> tuple[bool | None, list[Span]]:
    """What a file says of itself without being read whole, and the checksums in it."""
    with path.open("rb") as file:
        start = file.read(8)
        size = os.fstat(file.fileno()).st_size
        if path.suffix not in (".distcp", ".safetensors") and (start[:4] == _ZIP or _ends_a_zip(file, size)):
            spans = zip_spans(file, 0, size)
            return spans is not None, spans or []
        if path.suffix == ".safetensors":
            return _safetensors_whole(file, start, size), []
        if path.suffix in BINARY and (start in (b"", bytes(8)) or (size < 8 and start[:1] != b"\x80")):
            return False, []
        if path.suffix == ".json":
            return _json_whole(file), []
        if path.suffix == ".pkl" and start[:1] == b"\x80":
            return _pickle_whole(file, size), []
    return None, []


def _ends_a_zip(file: BinaryIO, size: int) -> bool:
    """Also when its first bytes are no longer what they were."""
    file.seek(max(0, size - _END_OF_ZIP))
    return size >= _END_OF_ZIP and file.read(4) == b"PK\x05\x06"


def _safetensors_whole(file: BinaryIO, start: bytes, size: int) -> bool:
    if len(start) < 8:
        return False
    length = struct.unpack("<Q", start)[0]
    if length > min(size, 100 << 20):
        return False
    try:
        file.seek(8)
        header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(8 + length + max(ends, default=0) == size)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return False


def _json_whole(file: BinaryIO) -> bool | None:
    file.seek(0)
    text = file.read(_MOST_TEXT + 1)
    if len(text) > _MOST_TEXT:
        return None
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _pickle_whole(file: BinaryIO, size: int) -> bool | None:
    """A pickle ends with its STOP; its opcodes are walked, nothing is made of them."""
    if size > _MOST_TEXT:
        return None
    file.seek(0)
    try:
        for _ in pickletools.genops(file):
            pass
    except Exception:  # noqa: BLE001 - each opcode has errors of its own; no whole pickle raises any
        return False
    return True if file.tell() == size else None


def _read(path: Path, spans: Sequence[Span]) -> str:
    """BLAKE3 of the file; empty when one of the spans (in order) is not what its checksum says."""
    total, at, crc, left = blake3(), 0, 0, [span for span in spans if span.end > span.start][::-1]
    if any(before.start < after.end for before, after in itertools.pairwise(left)):
        return ""  # two members in the same bytes
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
            view = memoryview(chunk)
            while left and left[-1].start < at + len(chunk):
                span = left[-1]
                crc = zlib.crc32(view[max(0, span.start - at) : span.end - at], crc)
                if span.end > at + len(chunk):
                    break
                if crc != span.crc:
                    return ""
                left.pop()
                crc = 0
            at += len(chunk)
    return "" if left else total.hexdigest()


class _Window(io.RawIOBase):
    """A part of an open file, as a file."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self._start, self._size, self._at = file, start, end - start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (self._at if whence == os.SEEK_CUR else self._size if whence == os.SEEK_END else 0)
        if self._at < 0:
            raise ValueError("before the beginning")
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._size - self._at)
        self._file.seek(self._start + self._at)
        found = self._file.read(left if size is None or size < 0 else min(left, size))
        self._at += len(found)
        return found


# -------------------------------------------------------------------------------------------------------------- held


def hold(path: Path, held: Path, *, copy: bool = False) -> Path:
    """Keep a file's content although its owner may delete it: a hard link at ``held``, or a copy, which outlives being
    overwritten in place too. Where neither is to be had the file itself is used. Raises ``FileNotFoundError`` when it
    is gone already."""
    try:
        held.parent.mkdir(parents=True, exist_ok=True)
        held.unlink(missing_ok=True)
        if copy:
            shutil.copy2(path, held)
        else:
            os.link(path.resolve() if path.is_symlink() else path, held)
    except OSError:
        if not path.exists():
            raise FileNotFoundError(path) from None
        held.unlink(missing_ok=True)
        return path
    return held
