"""The controller as a process: found by a lock and a socket, started detached when none lives, ended by itself.

Light to import: commands and the app need only ``ensure_controller`` and ``wake``. What it serves is in ``serve``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from vl_agent.protocol import ProtocolError
from vl_agent.store import StoreError

from vl_tui.config import ConfigError, FleetConfig, folders, load_fleet
from vl_tui.providers.base import ProviderError

START_S = 30.0
"""A controller that was started has so long to say that it is ready, or why it can't be."""
IDLE_S = 30.0
"""With nothing left to keep it ends after so long; ``VL_CONTROLLER_IDLE_S`` in its environment replaces that."""
_SILENT_S = 5.0
_LOG_MOST = 8 << 20
_REFUSED = 2


class ControllerFailed(Exception):
    """No controller could be started. ``str()`` is one paragraph for a person, with the cause that it told."""


class Starter:
    """The pipe of whoever started this process and waits for one line: ``ready``, ``kept``, or what went wrong."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    @property
    def waits(self) -> bool:
        return self._fd is not None

    def tell(self, words: str) -> None:
        """Only the first is read."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        with contextlib.suppress(OSError):  # nobody waits any more
            os.write(fd, " ".join(words.split()).encode()[:3000] + b"\n")
        os.close(fd)


def main(fleet: FleetConfig, leash_fd: int | None, *, starter: Starter | None = None) -> int:
    """Keep ``fleet`` in this process until nothing is left, it is told to stop, or ``leash_fd`` reaches its end.
    Returns the exit code: 0; 2 when another process on this host keeps it. Raises ``StoreError``, ``ConfigError``."""
    from vl_tui.controller import serve

    starter = starter or Starter(None)
    with _patient_lock(fleet) as held:
        if not held:
            print(f"vl-tui: {fleet.fleet} is kept by process {pid(fleet)} already.", file=sys.stderr)
            code = 0 if starter.waits else _REFUSED
            starter.tell("kept")
            return code
        ended = asyncio.run(serve.serve(fleet, leash_fd, lambda: starter.tell("ready")))
    # Whoever left something while the lock was still held was told that a controller lives: look once more.
    if ended == serve.IDLE and asyncio.run(serve.anything_left(fleet)):
        return main(fleet, leash_fd)
    return 0


def ensure_controller(fleet_path: Path, leash_fd: int | None = None) -> None:
    """See that a controller keeps the fleet: where none lives, start one detached and wait until it is ready. Blocks;
    cheap when one lives. Raises ``ControllerFailed``, ``ConfigError``."""
    fleet = load_fleet(fleet_path)
    if _lives(fleet):
        return
    ready, told = os.pipe()
    try:
        _spawn(fleet, leash_fd, told)
        os.close(told)
        told = -1
        words = _read_line(ready)
    finally:
        os.close(ready)
        if told >= 0:
            os.close(told)
    if words not in ("ready", "kept"):
        log = _file(fleet, "log")
        raise ControllerFailed(words or f"the controller did not come up within {START_S:.0f} s: its log is {log}.")


def _lives(fleet: FleetConfig) -> bool:
    """Whether a controller holds the lock and answers. One that was just killed holds it for a moment yet, one that
    just starts does not answer yet; one that holds it and stays silent (stopped by a person) is left alone."""
    end = time.monotonic() + _SILENT_S
    while True:
        with held_lock(fleet) as free:
            if free:
                return False
        if wake(fleet.fleet) or time.monotonic() > end:
            return True
        time.sleep(0.05)


def wake(fleet_id: str) -> bool:
    """Tell the fleet's controller to look now. False: none listens (it will look by itself when one lives)."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line, short_path(f"{fleet_id}.sock") as path:
            line.settimeout(1.0)
            line.connect(path)
            line.sendall(b"wake\n")
            return line.recv(16) != b""
    except OSError:
        return False


def pid(fleet: FleetConfig) -> int | None:
    """The process that keeps the fleet on this host; None: none does."""
    with held_lock(fleet) as free:
        if free:
            return None
    try:
        return int(_file(fleet, "lock").read_text().strip() or "0") or None
    except (OSError, ValueError):
        return None


def write_pid(fleet: FleetConfig) -> None:
    """Into the lock's file, by its holder: for a person, and for ``pid``."""
    _file(fleet, "lock").write_text(f"{os.getpid()}\n")


@contextlib.contextmanager
def held_lock(fleet: FleetConfig) -> Iterator[bool]:
    """Hold the fleet's lock on this host while the block runs; False: another process does. It goes with the process,
    however that ends: that is what proves an old controller dead."""
    fd = os.open(_file(fleet, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(fd)


@contextlib.contextmanager
def short_path(name: str) -> Iterator[str]:
    """A path to ``name`` in the runtime folder that fits a socket address (108 bytes), however long the folder's is."""
    folder = folders.private(folders.runtime_home())
    if len(os.fsencode(folder / name)) < 100 or not Path("/proc/self/fd").exists():
        yield str(folder / name)
        return
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


@contextlib.contextmanager
def _patient_lock(fleet: FleetConfig) -> Iterator[bool]:
    """The lock, also where somebody only looked whether it is free, and had it for that moment."""
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            if stack.enter_context(held_lock(fleet)):
                yield True
                return
            time.sleep(0.1)
        yield False


def lock_name(fleet: FleetConfig) -> str:
    """This boot of this host, and the lock on it: a lease that names both is one whose holder the lock speaks for. The
    file itself, not its path alone: containers on one host, and a runtime folder made anew at the next login, have
    another file of that name, whose lock says nothing of who holds the first."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = socket.gethostname()
    path = _file(fleet, "lock")
    found = path.stat()
    return f"{boot}:{path}:{found.st_dev}:{found.st_ino}"


def _file(fleet: FleetConfig, kind: str) -> Path:
    return fleet.runtime_dir / f"{fleet.fleet}.{kind}"


def _spawn(fleet: FleetConfig, leash_fd: int | None, told: int) -> None:
    """Start the controller in a session of its own; it forks once more, so that it is nobody's child."""
    command = [sys.executable, "-m", "vl_tui.controller", "--fleet", str(fleet.path), "--ready-fd", str(told)]
    passed = [told]
    if leash_fd is not None:
        command += ["--leash-fd", str(leash_fd)]
        passed.append(leash_fd)
    log = _file(fleet, "log")
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_MOST:
            log.replace(log.with_suffix(".log.1"))
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab") as out:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, pass_fds=passed, start_new_session=True,
            cwd="/", timeout=START_S, check=True,
        )  # fmt: skip


def _read_line(fd: int) -> str:
    """What the new controller says on its pipe; empty when it says nothing in time, or ends."""
    os.set_blocking(fd, False)
    found, end = b"", time.monotonic() + START_S
    while not found.endswith(b"\n") and time.monotonic() < end:
        try:
            chunk = os.read(fd, 4096)
        except BlockingIOError:
            time.sleep(0.02)
            continue
        if not chunk:
            break
        found += chunk
    return found.decode(errors="replace").strip()


def detached(fleet_path: Path, leash_fd: int | None, ready_fd: int | None) -> int:
    """What ``python -m vl_tui.controller`` does with a pipe to tell: fork away from the one who waits, and keep."""
    if ready_fd is not None and os.fork():
        os._exit(0)
    os.umask(0o077)
    starter = Starter(ready_fd)
    try:
        return main(load_fleet(fleet_path), leash_fd, starter=starter)
    except (ConfigError, StoreError, ProviderError, ProtocolError, OSError) as error:
        print(error, file=sys.stderr, flush=True)
        starter.tell(str(error))
        return 3
