"""The agent as one file for one kind of box: its own modules, the helper, and compiled packages as fitting wheels.

Where the box's Python and machine are like the operator's, the packages are taken as they are installed here; otherwise
pip fetches the wheels once, into the cache. Linux on x86_64 and aarch64 only.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata as metadata
import importlib.resources as resources
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("blake3", "nvidia-ml-py", "obstore", "typing_extensions", "zstandard")
HELPER = ("__init__.py", "archive.py", "control.py", "writer.py", "torch")
"""What enters the training process: nothing else of ours is on its path."""
OLDEST = (3, 10)
MACHINES = ("x86_64", "aarch64")
_FETCH_S = 300
_LEGACY = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


class InstallError(Exception):
    """The agent can't be installed on a box; ``str()`` says why and what to do. Trying again does not help."""


@dataclass(frozen=True)
class Platform:
    """What decides which wheels fit."""

    python: tuple[int, int]
    machine: str
    glibc: tuple[int, int]

    @staticmethod
    def of(name: str, probe: Mapping[str, Any]) -> Platform:
        """From the probe's answer, which is the box's word and checked. Raises ``InstallError``."""
        try:
            version = (int(probe["version"][0]), int(probe["version"][1]))
            system, machine = str(probe["system"]), str(probe["machine"])
            libc, number = str(probe["libc"][0]), str(probe["libc"][1])
            root, python = str(probe["root"]), str(probe["python"])
        except (KeyError, TypeError, ValueError, IndexError):
            raise InstallError(f"{name}: its answer to the first question can't be read.") from None
        if system != "Linux" or machine not in MACHINES:
            raise InstallError(f"{name}: is {system} on {machine}; the agent runs on Linux, {' and '.join(MACHINES)}.")
        if version < OLDEST:
            raise InstallError(f"{name}: has Python {version[0]}.{version[1]}; the agent needs 3.10 or newer there.")
        if libc != "glibc" or not re.fullmatch(r"\d+\.\d+", number):
            raise InstallError(f"{name}: has {libc or 'another'} C library; the agent needs glibc (not Alpine's musl).")
        if not root.startswith("/") or not python.startswith("/"):
            raise InstallError(f"{name}: no folder can be written there (home, /dev/shm, /tmp): is its disk full?")
        major, minor = number.split(".")
        return Platform(version, machine, (int(major), int(minor)))

    def fits(self, tag: str) -> bool:
        """Whether a wheel of ``tag`` (``cp311-cp311-manylinux_2_17_x86_64``) runs there."""
        pythons, abis, platforms = tag.split("-")
        own = f"cp{self.python[0]}{self.python[1]}"
        if platforms == "any":
            return True
        by_python = own in pythons.split(".") and own in abis.split(".")
        stable = "abi3" in abis.split(".") and any(_number(p) <= self.python for p in pythons.split("."))
        return (by_python or stable) and any(self._runs(p) for p in platforms.split("."))

    def _runs(self, platform: str) -> bool:
        found = re.fullmatch(r"(manylinux(?:1|2010|2014)|manylinux_(\d+)_(\d+))_(.+)", platform)
        if found is None or found[4] != self.machine:
            return False
        needed = _LEGACY.get(found[1]) or (int(found[2]), int(found[3]))
        return needed <= self.glibc


@dataclass(frozen=True)
class Bundle:
    version: str
    """16 hex digits over everything in it."""
    path: Path


def build(platform: Platform, cache: Path) -> Bundle:
    """The bundle for ``platform``, made once and kept in ``cache``. Blocks. Raises ``InstallError``."""
    own = dict(_own_files())
    sources = [_package(name, platform, cache) for name in PACKAGES]
    digest = hashlib.sha256(repr((platform.python, platform.machine)).encode())
    for name in sorted(own):
        digest.update(name.encode() + b"\0" + own[name] + b"\0")
    for source in sources:
        digest.update(source.identity.encode() + b"\0")
    version = digest.hexdigest()[:16]
    path = cache / "bundles" / f"{version}.tar.gz"
    if not path.exists():
        files = own | {f"site/{name}": body for source in sources for name, body in source.files()}
        _write(path, files)
    return Bundle(version, path)


def _own_files() -> Iterator[tuple[str, bytes]]:
    root = Path(str(resources.files("vl_agent")))
    for path in sorted(root.rglob("*.py")):
        yield f"site/vl_agent/{path.relative_to(root).as_posix()}", path.read_bytes()
        if path.relative_to(root).parts[0] in HELPER:
            yield f"train/vl_agent/{path.relative_to(root).as_posix()}", path.read_bytes()


@dataclass(frozen=True)
class _Installed:
    """A package as it is installed here."""

    dist: metadata.Distribution

    @property
    def identity(self) -> str:
        return f"{self.dist.metadata['Name']} {self.dist.version} {' '.join(sorted(_tags(self.dist)))}"

    def files(self) -> Iterator[tuple[str, bytes]]:
        for file in self.dist.files or ():
            if ".." not in file.parts and _wanted(file.as_posix()):
                yield file.as_posix(), Path(str(file.locate())).read_bytes()


@dataclass(frozen=True)
class _Wheel:
    """A package as a wheel in the cache."""

    path: Path

    @property
    def identity(self) -> str:
        return self.path.name

    def files(self) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(self.path) as wheel:
            for name in wheel.namelist():
                if not name.endswith("/") and _wanted(name):
                    yield name, wheel.read(name)


def _wanted(name: str) -> bool:
    """Not type stubs, caches and papers: a box runs it, nobody reads it there."""
    return not name.endswith((".pyc", ".pyi", ".cyclonedx.json")) and "/licenses/" not in name


def _package(name: str, platform: Platform, cache: Path) -> _Installed | _Wheel:
    dist = metadata.distribution(name)
    if any(platform.fits(tag) for tag in _tags(dist)):
        return _Installed(dist)
    folder = cache / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    found = _cached(folder, dist, platform)
    if found is None:
        _fetch(dist, platform, folder)
        found = _cached(folder, dist, platform)
    if found is None:
        raise InstallError(
            f"{name} has no wheel for Python {platform.python[0]}.{platform.python[1]} on"
            f" {platform.machine} with glibc {platform.glibc[0]}.{platform.glibc[1]}: use another Python on the box."
        )
    return _Wheel(found)


def _tags(dist: metadata.Distribution) -> list[str]:
    text = dist.read_text("WHEEL") or ""
    return [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Tag:")]


def _cached(folder: Path, dist: metadata.Distribution, platform: Platform) -> Path | None:
    stem = f"{dist.metadata['Name'].replace('-', '_')}-".lower()
    for path in sorted(folder.glob("*.whl"), reverse=True):
        if path.name.lower().startswith(stem) and platform.fits("-".join(path.stem.split("-")[-3:])):
            return path
    return None


def _fetch(dist: metadata.Distribution, platform: Platform, folder: Path) -> None:
    """Have pip fetch the newest wheel that fits, here, not on the box: not every version has one for every Python."""
    version = f"{platform.python[0]}.{platform.python[1]}"
    newest = [f"manylinux_2_{minor}_{platform.machine}" for minor in range(platform.glibc[1], 16, -1)]
    platforms = [word for name in (*newest, f"manylinux2014_{platform.machine}") for word in ("--platform", name)]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder),
        "--implementation", "cp", "--python-version", version, "--abi", f"cp{version.replace('.', '')}",
        "--abi", "abi3", "--abi", "none", *platforms, dist.metadata["Name"],
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        name = dist.metadata["Name"]
        raise InstallError(f"pip did not fetch {name} within {_FETCH_S} s: check the network.") from None
    if done.returncode != 0:
        words = " ".join(done.stderr.split())[-300:]
        raise InstallError(
            f"A wheel of {dist.metadata['Name']} for Python {version} on {platform.machine} can't be"
            f" fetched here: {words}"
        )


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    """A tar whose bytes depend on its files alone, packed lightly: loopback and LAN are quicker than strong gzip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(files[name]), 0o600
            tar.addfile(member, io.BytesIO(files[name]))
    # several boxes come up at once, each in a thread of its own; a half file here would be sent to every box after
    number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(packed.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _number(tag: str) -> tuple[int, int]:
    found = re.fullmatch(r"cp(\d)(\d+)", tag)
    return (int(found[1]), int(found[2])) if found else (99, 0)
