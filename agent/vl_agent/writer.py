"""The process that writes a training's saves: captured state in shared memory on one side, whole checkpoints on disk on
the other.

Started once by the helper (``vl_agent.torch``), as a program of its own: no fork of the trainer, not the person's
script again, no torch. It outlives the trainer by the saves that were handed over to it, and ends when nobody can hand
it more. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import platform
import re
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vl_agent import archive, control

NAME = re.compile(r"step-(\d{9,})(\.pt)?")
"""What a save is called: a file where one process trains, a folder where several ranks do."""
FAILED = "failed"
"""In a folder under way: one rank's part will not come."""
MARK = "VL_WRITER"
"""Set in its environment: the supervisor lets it finish."""
MOST_MESSAGE = 64 * 1024
PARTS_S = 600.0
"""So long the first rank's writer waits for the other ranks' parts; a tenth of it when its trainer is gone."""

_NICE = 10
_IDLE = 3 << 13  # ionice class 3
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_LOOK_S = 0.02
_PARENT_S = 5.0

Piece = tuple[int, int]
"""Where content is, and how many bytes it has."""
View = Callable[[int, int], memoryview]


@dataclass(frozen=True)
class Part:
    """One rank's share of a folder."""

    temporary: str
    """The folder's name until it is whole; no two saves have the same."""
    file: str
    metadata: Piece | None = None
    """For the rank that completes the folder: the content of ``.metadata``, written when every part is there."""
    parts: Mapping[str, int] | None = None
    """And the bytes of every rank's file."""


@dataclass(frozen=True)
class Job:
    """One save to be written."""

    folder: str
    name: str
    step: int
    keep: int
    began: float
    """When the capture began, by the clock that all processes of a machine share (``time.monotonic``)."""
    stall_s: float | None
    """What the capture cost the training; None: it stands still until all is written."""
    archives: tuple[tuple[Piece, tuple[Piece, ...]], ...]
    """Pickle and storages of each, in the order in which they follow each other in the file."""
    part: Part | None = None

    def encode(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @staticmethod
    def decode(body: bytes) -> Job:
        words: dict[str, Any] = json.loads(body)
        part = words.pop("part")
        return Job(**words, part=Part(**part) if part else None)


def carry_out(job: Job, view: View, tell: Callable[..., None], limit_s: Callable[[], float] = lambda: PARTS_S) -> None:
    """Write one save: temporary name, fsync, rename, fsync of the folder; then tell it and delete what is too old.
    Raises ``OSError``; nothing of it is left then."""
    folder = Path(job.folder)
    if job.part is None:
        _write_file(job, view, folder)
    else:
        _write_part(job, view, folder / job.part.temporary, job.part.file)
        if job.part.parts is None:
            return
        _complete(job, view, folder, job.part, limit_s)
    sync_folder(folder)
    took_s = time.monotonic() - job.began
    stall_s = took_s if job.stall_s is None else job.stall_s
    tell(saved=job.name, step=job.step, took_s=round(took_s, 4), stall_s=round(stall_s, 6))
    for old in saves(folder)[job.keep :]:
        _remove(old)


def saves(folder: Path) -> list[Path]:
    """What was saved in ``folder``, newest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def clear(folder: Path) -> None:
    """Delete what killed saves left; nobody may be writing."""
    for path in folder.iterdir():
        if path.name.startswith(".step-") and path.name.endswith(".tmp"):
            _remove(path)


@contextlib.contextmanager
def writing(folder: Path, *, alone: bool) -> Iterator[int | None]:
    """Hold the folder's lock, as the writers of a training do together, or ``alone``. Gives its descriptor; None:
    another has it."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        except OSError:  # a file system without locks
            yield fd
        else:
            yield fd
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_file(job: Job, view: View, folder: Path) -> None:
    temporary = folder / f".{job.name}.{os.getpid()}.tmp"
    try:
        _write(job, view, temporary)
        os.replace(temporary, folder / job.name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_part(job: Job, view: View, folder: Path, name: str) -> None:
    """A file whose name says that it is whole; the folder's own rename says that all are."""
    folder.mkdir(exist_ok=True)
    temporary = folder / f".{name}.tmp"
    try:
        _write(job, view, temporary)
        os.replace(temporary, folder / name)
    except BaseException:
        with contextlib.suppress(OSError):
            (folder / FAILED).touch()
        raise


def _write(job: Job, view: View, path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        at = 0
        for pickle, storages in job.archives:
            at += -at % archive.ALIGNMENT
            at = archive.write(fd, at, archive.members(view(*pickle), (view(*piece) for piece in storages)))
        os.fsync(fd)
    finally:
        os.close(fd)


def _complete(job: Job, view: View, folder: Path, part: Part, limit_s: Callable[[], float]) -> None:
    """Wait for every rank's part, put ``.metadata`` beside them, and give the folder its name."""
    assert part.parts is not None
    assert part.metadata is not None
    inside = folder / part.temporary
    try:
        _wait_for(inside, part.parts, limit_s)
        with (inside / ".metadata.tmp").open("wb") as file:
            file.write(view(*part.metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(inside / ".metadata.tmp", inside / ".metadata")
        sync_folder(inside)
        if (folder / job.name).exists():  # done again after a checkpoint that could not be used
            _remove(folder / job.name)
        os.rename(inside, folder / job.name)
    except BaseException:
        shutil.rmtree(inside, ignore_errors=True)
        raise


def _wait_for(inside: Path, parts: Mapping[str, int], limit_s: Callable[[], float]) -> None:
    began = time.monotonic()
    missing = dict(parts)
    while True:
        for name, size in list(missing.items()):
            with contextlib.suppress(FileNotFoundError):
                if (inside / name).stat().st_size != size:
                    raise OSError(f"{inside / name} has not the size that was planned")
                del missing[name]
        if not missing:
            return
        if (inside / FAILED).exists():
            raise OSError("another rank could not write its part")
        if time.monotonic() - began > limit_s():
            raise OSError(f"{', '.join(sorted(missing))} did not come: do all ranks see the folder {inside.parent}?")
        time.sleep(_LOOK_S)


def _remove(path: Path) -> None:
    """A folder loses its name first: a half-deleted one must not look like a save."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp") if not path.name.startswith(".") else path
            os.rename(path, hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        else:
            path.unlink()


class _Writer:
    """The other end of ``vl_agent.torch.outbox``: buffers and jobs come in, one answer for each job goes out."""

    def __init__(self, link: socket.socket, progress: control.Progress) -> None:
        self._link, self._progress = link, progress
        self._parent = os.getppid()
        self._buffers: dict[int, mmap.mmap] = {}

    def run(self) -> None:
        while not self._orphaned or select.select([self._link], [], [], 0)[0]:
            if not select.select([self._link], [], [], _PARENT_S)[0]:
                continue
            try:
                body, fds, _, _ = socket.recv_fds(self._link, MOST_MESSAGE, 1)
            except ConnectionResetError:  # the trainer died with answers unread; what it handed over is still to come
                continue
            if not body:
                return
            message = json.loads(body)
            if fds:
                self._buffers[message["buffer"]] = mmap.mmap(fds[0], message["size"], prot=mmap.PROT_READ)
                os.close(fds[0])
            else:
                self._work(message["buffer"], message["at"], message["size"])

    @property
    def _orphaned(self) -> bool:
        return os.getppid() != self._parent

    def _work(self, number: int, at: int, size: int) -> None:
        whole = memoryview(self._buffers[number])

        def view(at: int, size: int) -> memoryview:
            return whole[at : at + size]

        try:
            job = Job.decode(bytes(view(at, size)))
            carry_out(job, view, self._progress.tell, lambda: PARTS_S / 10 if self._orphaned else PARTS_S)
            answer = {"buffer": number, "error": ""}
        except OSError as error:
            answer = {"buffer": number, "error": error.strerror or str(error)}
        with contextlib.suppress(OSError):  # nobody is there any more
            self._link.send(json.dumps(answer).encode())


def _be_kind() -> None:
    """Whatever else runs here goes first, on the processor and on the disk."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, 1, 0, _IDLE)


def main() -> None:
    """``argv``: where ``vl_agent`` is, and the number of the socket."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it ends with its work, not with the trainer
        signal.signal(number, signal.SIG_IGN)
    _be_kind()
    link = socket.socket(fileno=int(sys.argv[2]))
    _Writer(link, control.Progress(os.environ.get("VL_CONTROL") or None)).run()
