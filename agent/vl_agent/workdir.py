"""What the command runs in: the tar of the submit, unpacked, and the person's setup command.

The tar comes from the store and is not trusted: nothing of it may land outside the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from vl_agent.checkpoints import files
from vl_agent.protocol import RunSpec, workdir_key
from vl_agent.store import Store
from vl_agent.training import last_line, tail

SETUP_S = 3600.0


class SetupFailed(Exception):
    """The working folder can't be made ready; ``str()`` says why, for a person."""


async def unpack(store: Store, spec: RunSpec, folder: Path) -> None:
    """Fetch the run's tar, check its hash, unpack it into ``folder``. Raises ``SetupFailed``, ``StoreError``."""
    folder.mkdir(parents=True, exist_ok=True)
    if not spec.workdir:
        return
    key = workdir_key(spec.name, spec.workdir)
    packed = folder.with_name(f".{folder.name}.tar")
    size = next((entry.size for entry in await store.list(key) if entry.key == key), None)
    if size is None:
        raise SetupFailed("the working folder that was submitted is not in the store: submit the run again")
    try:
        await store.get_file(key, packed, size)
        if await asyncio.to_thread(files.digest, packed) != spec.workdir:
            raise SetupFailed("the working folder in the store is not what was submitted: its hash differs")
        await asyncio.to_thread(_extract, packed, folder)
    finally:
        packed.unlink(missing_ok=True)


def _extract(packed: Path, folder: Path) -> None:
    try:
        with tarfile.open(packed, "r:") as tar:
            for member in tar:
                _member(tar, member, folder)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise SetupFailed(f"the working folder can't be unpacked: {error}") from None


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or ".." in parts or not parts:
        raise SetupFailed(f"the working folder's tar holds {member.name!r}, which would not stay inside")
    target = folder.joinpath(*parts)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if any(parent.is_symlink() for parent in target.parents if parent.is_relative_to(folder)):
        raise SetupFailed(f"the working folder's tar holds {member.name!r} behind a link")
    target.unlink(missing_ok=True)
    if member.issym():
        inside = os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname))
        if member.linkname.startswith("/") or inside.split("/")[0] == "..":
            raise SetupFailed(f"the working folder's tar holds the link {member.name!r} to {member.linkname!r}")
        target.symlink_to(member.linkname)
    elif member.isfile():
        source = tar.extractfile(member)
        assert source is not None
        with source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        target.chmod(member.mode & 0o755 | 0o600)
    else:
        raise SetupFailed(f"the working folder's tar holds {member.name!r}, which is no file, folder or link to one")


async def set_up(command: str, folder: Path, log: Path, env: Mapping[str, str]) -> None:
    """Run the person's setup command once. Raises ``SetupFailed`` with its last line."""
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", command, cwd=folder, env=dict(env), stdin=asyncio.subprocess.DEVNULL, stdout=out,
            stderr=out, start_new_session=True,
        )  # fmt: skip
        try:
            status = await asyncio.wait_for(process.wait(), SETUP_S)
        except asyncio.TimeoutError:
            raise SetupFailed(f"setup did not end within {SETUP_S / 60:.0f} minutes") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if status != 0:
        raise SetupFailed(f"setup failed with exit status {status}: {last_line(tail(log))}")
