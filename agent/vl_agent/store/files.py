"""``file:///folder``: the store as plain files, for one host or a shared disk with working locks.

Every write goes to a hidden temporary file in the same folder, is fsynced and renamed; create and swap do so under one
``flock`` for the whole store, so that compare and write are one act. All of it runs in threads.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from blake3 import blake3

from vl_agent.store.base import Denied, Entry, Exists, Moved, NoStore, NotFound, Stored, StoreError

T = TypeVar("T")
_LOCK = ".vl-store.lock"


class FileStore:
    """Objects as files below ``root``. A version is the BLAKE3 of the content."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = f"file://{root}"

    async def put(self, key: str, data: bytes) -> str:
        return await self._do(key, lambda path: _write(path, data))

    async def create(self, key: str, data: bytes) -> str:
        def create(path: Path) -> str:
            with self._locked():
                if path.exists():
                    raise Exists(f"{self.url}: {key} is there already.")
                return _write(path, data)

        return await self._do(key, create)

    async def swap(self, key: str, data: bytes, version: str) -> str:
        def swap(path: Path) -> str:
            with self._locked():
                try:
                    now = _version(path.read_bytes())
                except FileNotFoundError:
                    now = ""
                if now != version:
                    raise Moved(f"{self.url}: {key} has changed since it was read.")
                return _write(path, data)

        return await self._do(key, swap)

    async def get(self, key: str) -> Stored:
        def get(path: Path) -> Stored:
            data = path.read_bytes()
            return Stored(data, _version(data))

        return await self._do(key, get)

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        def get_range(path: Path) -> bytes:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(max(0, end - start))

        return await self._do(key, get_range)

    async def folders(self, prefix: str) -> list[str]:
        def names(base: Path) -> list[str]:
            try:
                with os.scandir(base) as entries:
                    return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
            except FileNotFoundError:
                return []

        return await self._do(prefix.rstrip("/"), names, folder=True)

    async def list(self, prefix: str, after: str = "") -> list[Entry]:
        folder = prefix.rpartition("/")[0]

        def walk(base: Path) -> list[Entry]:
            found = []
            for where, folders, names in os.walk(base):
                folders[:] = [name for name in folders if not name.startswith(".")]
                for name in names:
                    key = (Path(where) / name).relative_to(self.root).as_posix()
                    if name.startswith(".") or not key.startswith(prefix) or key <= after:
                        continue
                    with suppress(FileNotFoundError):  # deleted since the folder was read
                        stat = os.stat(os.path.join(where, name))
                        version = f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"
                        found.append(Entry(key, stat.st_size, version, stat.st_mtime))
            return sorted(found, key=lambda entry: entry.key)

        return await self._do(folder, walk, folder=True)

    async def delete(self, key: str) -> None:
        await self._do(key, lambda path: path.unlink(missing_ok=True))

    async def put_file(self, key: str, path: Path, *, sent: Callable[[int], None] | None = None) -> None:
        def copy(target: Path) -> None:
            with _replacing(target) as temporary, path.open("rb") as source, temporary.open("wb") as sink:
                while chunk := source.read(4 << 20):
                    sink.write(chunk)
                    if sent:
                        sent(len(chunk))
                sink.flush()
                os.fsync(sink.fileno())

        await self._do(key, copy)

    async def get_file(self, key: str, path: Path, size: int) -> None:
        def copy(source: Path) -> None:
            if source.stat().st_size != size:
                raise StoreError(f"{self.url}: {key} has {source.stat().st_size} bytes, {size} were expected.")
            with source.open("rb") as read, path.open("wb") as sink:
                shutil.copyfileobj(read, sink, 4 << 20)
                sink.flush()
                os.fsync(sink.fileno())

        await self._do(key, copy)

    def renew(self, credentials: Mapping[str, str]) -> None:
        return

    async def close(self) -> None:
        return

    async def _do(self, key: str, act: Callable[[Path], T], *, folder: bool = False) -> T:
        return await asyncio.to_thread(self._words, key, act, folder)

    def _words(self, key: str, act: Callable[[Path], T], folder: bool) -> T:
        """Run ``act`` on the key's path; the operating system's errors become the store's. Only a ``folder`` may be
        empty: the root itself."""
        parts = [] if folder and not key else key.split("/")
        if any(part in ("", "..") or part.startswith(".") or "\0" in part for part in parts):
            raise StoreError(f"{self.url}: {key!r} can't be a key.")
        try:
            return act(self.root.joinpath(*parts))
        except FileNotFoundError:
            raise NotFound(f"{self.url}: there is no {key}.") from None
        except PermissionError as error:
            raise Denied(f"{self.url}: {error.strerror} for {key}: make the folder yours.") from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreError(f"{self.url}: the disk is full, {key} was not written: make room there.") from None
            raise StoreError(f"{self.url}: {key}: {error.strerror}.") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        _make(self.root)
        lock = os.open(self.root / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
        raise NoStore(f"{folder} can't be made ({error.strerror}): correct the store's URL.") from None


def _version(data: bytes) -> str:
    return blake3(data).hexdigest()


def _write(path: Path, data: bytes) -> str:
    with _replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return _version(data)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place, durably, when the block ends well."""
    _make(path.parent)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
