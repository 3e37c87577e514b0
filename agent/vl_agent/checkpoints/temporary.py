"""Where the training makes its temporary files: on the checkpoints' file system, where that is another one.

Lightning writes a checkpoint into TMPDIR and renames it; across file systems that is a copy in place, torn while it
runs. Which framework it is nobody knows before the first save, so the rule asks only for the file systems, and for what
else a temporary folder must be able to do: hold sockets, whose paths may have 108 bytes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vl_agent.checkpoints import files

_ROOM = 40
"""Letters that Python's and torch's own processes put behind TMPDIR for their sockets."""


def better(checkpoints: Path, env: Mapping[str, str]) -> Path | None:
    """A folder for TMPDIR, made and emptied of what killed saves left, or None: the usual one is as good, a person has
    chosen one, or there a temporary folder can't be."""
    if any(name in env for name in ("TMPDIR", "TEMP", "TMP")):
        return None
    try:
        if checkpoints.stat().st_dev == os.stat(tempfile.gettempdir()).st_dev:
            return None
        folder = files.hidden_folder(checkpoints) / "tmp"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.glob("tmp*"):
            if left.is_file() and not left.is_symlink():
                left.unlink()
        _holds_sockets(folder)
    except OSError:
        return None
    return folder


def _holds_sockets(folder: Path) -> None:
    """Raises ``OSError`` when a socket with a usual name can't be made there."""
    name = folder / ("s" * (_ROOM - 1))
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.bind(os.fspath(name))
        name.unlink()
