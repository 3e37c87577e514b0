"""Any exception as one paragraph and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from pathlib import Path

FINISHED, RUN_FAILED, MISTAKE, UNREACHABLE, BUG, INTERRUPTED = 0, 1, 2, 3, 70, 130


_NO_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP)
"""What the system says of a path that can't be what it should be."""


class Refused(Exception):
    """The person asked for something that can't be done as asked. ``str()`` is one paragraph with the remedy."""


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and words for ``error``; what nobody foresaw is written to a file that the words name."""
    code = _known(error)
    if code is not None:
        return code, one_paragraph(str(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" while writing {error.filename}" if error.filename else ""
        return UNREACHABLE, f"no space left on this disk{place}. Free some and try again; the store is as it was."
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM) and error.filename:
        return MISTAKE, f"{error.filename}: {error.strerror}. Check who owns it, and its mode."
    if isinstance(error, OSError) and error.errno in _NO_PATH and error.filename:
        return MISTAKE, one_paragraph(f"{error.filename}: {error.strerror}. Name another path.")
    return BUG, _unforeseen(error)


CODES = [
    ("vl_tui.failure", "Refused", MISTAKE),
    ("vl_tui.config", "ConfigError", MISTAKE),
    ("vl_agent.protocol", "ProtocolError", MISTAKE),
    ("vl_agent.head", "Refused", MISTAKE),
    ("vl_agent.store", "Denied", MISTAKE),
    ("vl_agent.store", "Exists", MISTAKE),
    ("vl_agent.store", "NoStore", MISTAKE),
    ("vl_agent.store", "Unsafe", MISTAKE),
    ("vl_agent.store", "StoreError", UNREACHABLE),
    ("vl_tui.ssh.connection", "HostKeyChanged", MISTAKE),
    ("vl_tui.ssh.connection", "HostKeyUnknown", MISTAKE),
    ("vl_tui.ssh.connection", "LoginRefused", MISTAKE),
    ("vl_tui.ssh.connection", "SshError", UNREACHABLE),
    ("vl_tui.ssh.bundle", "InstallError", MISTAKE),
    ("vl_tui.controller.process", "ControllerFailed", UNREACHABLE),
    ("vl_tui.demo.s3", "S3Error", UNREACHABLE),
    ("vl_tui.demo.fleet.client", "FleetError", UNREACHABLE),
    ("vl_tui.providers.base", "Transient", UNREACHABLE),
    ("vl_tui.providers.base", "Unsure", UNREACHABLE),
    ("vl_tui.providers.base", "ProviderError", MISTAKE),
]
"""Module, error, exit code; the first that fits counts."""


def _known(error: BaseException) -> int | None:
    """Nothing is imported for this: an error that was raised has its module loaded already."""
    for module, name, code in CODES:
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(error, getattr(loaded, name, ())):
            return code
    return None


def one_paragraph(text: str) -> str:
    """``text`` without line breaks or control characters: parts of it may come from a box or a server."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _unforeseen(error: BaseException) -> str:
    from vl_tui.config import folders

    # Locals stay out of it: they may hold a secret.
    text = "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format())
    words = f"an error that nobody foresaw ({type(error).__name__})."
    try:
        path = folders.private(folders.state_home()) / f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        path.write_text(f"python {sys.version}\ncommand {Path(sys.argv[0]).name}\n\n{text}")
        path.chmod(0o600)
    except Exception as second:  # noqa: BLE001 - said below; the first error matters more
        return f"{words} Its details could not be written either ({type(second).__name__}). It is a bug in vl-tui."
    return f"{words} The details are in {path}. It is a bug in vl-tui: please report it with that file."
