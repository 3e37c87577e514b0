"""The file format of ``torch.save``, written without torch: a zip of stored members, each with its CRC-32.

The size of an archive follows from its members' names and sizes alone, so that who writes it and who names its place in
a larger file need not speak. Equal members give equal bytes under any file name. Standard library only: this module
enters the training process, and the process that writes for it.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

ROOT = "archive"
ALIGNMENT = 64
"""Every member's content begins at a multiple of it, counted from the archive's begin."""

_CHUNK = 8 << 20
_LOCAL, _CENTRAL = struct.Struct("<IHHHHHIIIHH"), struct.Struct("<IHHHHHHIIIHHHHHII")
_END64, _LOCATOR, _END = struct.Struct("<IQHHIIQQQQ"), struct.Struct("<IIQI"), struct.Struct("<IHHHHIIH")
_FULL = 0xFFFFFFFF
_ZIP64 = 45

Member = tuple[str, memoryview]


def members(pickle: memoryview, storages: Iterable[memoryview]) -> Iterator[Member]:
    """What ``torch.load`` looks for: the pickled objects, and the storages that they name by number."""
    yield "data.pkl", pickle
    yield "byteorder", memoryview(b"little")
    for number, storage in enumerate(storages):
        yield f"data/{number}", storage
    yield "version", memoryview(b"3\n")


def size(pickle: int, storages: Sequence[int]) -> int:
    """Bytes of the archive whose pickle and storages have so many."""
    sizes = [("data.pkl", pickle), ("byteorder", 6)]
    sizes += [(f"data/{number}", length) for number, length in enumerate(storages)]
    at = central = 0
    for name, length in [*sizes, ("version", 2)]:
        at += _head(at, name) + length
        central += _CENTRAL.size + 28 + len(_path(name))
    return at + central + _END64.size + _LOCATOR.size + _END.size


def write(fd: int, at: int, found: Iterable[Member]) -> int:
    """Write the archive of ``found`` into the file from byte ``at`` on; return where it ends. Raises ``OSError``."""
    begin, central, count = at, b"", 0
    for name, content in found:
        count += 1
        path, head = _path(name), _head(at - begin, name)
        crc = 0
        for start in range(0, len(content), _CHUNK):
            chunk = content[start : start + _CHUNK]
            crc = zlib.crc32(chunk, crc)
            _write_all(fd, chunk, at + head + start)
        length = len(content)
        zip64 = struct.pack("<HHQQ", 1, 16, length, length)
        padding = head - _LOCAL.size - len(path) - len(zip64) - 4
        extra = zip64 + struct.pack("<HH", 0x4246, padding) + bytes(padding)
        fixed = (_ZIP64, 0, 0, 0, 0, crc, _FULL, _FULL, len(path))
        _write_all(fd, memoryview(_LOCAL.pack(0x04034B50, *fixed, len(extra)) + path + extra), at)
        central += _CENTRAL.pack(0x02014B50, _ZIP64, *fixed, 28, 0, 0, 0, 0, _FULL) + path
        central += struct.pack("<HHQQQ", 1, 24, length, length, at - begin)
        at += head + length
    start = at - begin
    tail = _END64.pack(0x06064B50, 44, _ZIP64, _ZIP64, 0, 0, count, count, len(central), start)
    tail += _LOCATOR.pack(0x07064B50, 0, start + len(central), 1)
    most = min(count, 0xFFFF)
    tail += _END.pack(0x06054B50, 0, 0, most, most, min(len(central), _FULL), _FULL, 0)
    _write_all(fd, memoryview(central + tail), at)
    return at + len(central) + len(tail)


def damage(path: Path, at: int = 0, length: int | None = None) -> str:
    """Why the archive (``length`` bytes of the file, from ``at`` on) can't be used, in words; empty: every member has
    the CRC it was written with. Loaders of torch do not look at CRCs: a flipped bit would become other weights."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(Stretch(file, at, size if length is None else length)) as archive:
                if all(member.CRC == 0 for member in archive.infolist() if member.file_size):
                    return ""  # saved with CRCs turned off: the directory is all there is
                bad = archive.testzip()
                return f"{bad} has not the CRC it was written with" if bad else ""
    except (zipfile.BadZipFile, OSError, EOFError, struct.error, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def _path(name: str) -> bytes:
    return f"{ROOT}/{name}".encode()


def _head(at: int, name: str) -> int:
    """Bytes between ``at`` and the content of the member that begins there: header, name, sizes, padding."""
    least = _LOCAL.size + len(_path(name)) + 20 + 4
    return least + -(at + least) % ALIGNMENT


def _write_all(fd: int, content: memoryview, at: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(fd, content[done:], at + done)


class Stretch(io.RawIOBase):
    """A part of a file, read as if it were one: archives that follow each other."""

    def __init__(self, file: BinaryIO, at: int, length: int) -> None:
        self._file, self._begin, self._length = file, at, length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise OSError("before the begin")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._begin + self._at)
        count = min(len(buffer), max(0, self._length - self._at))
        found = self._file.read(count)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)
