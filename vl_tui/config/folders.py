"""Where vl-tui keeps its own files on the operator's machine (the XDG rules), each folder private to the person."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from vl_tui.config.document import ConfigError


def config_home(env: Mapping[str, str] = os.environ) -> Path:
    return _home(env, "XDG_CONFIG_HOME", ".config") / "vl-tui"


def state_home(env: Mapping[str, str] = os.environ) -> Path:
    return _home(env, "XDG_STATE_HOME", ".local/state") / "vl-tui"


def cache_home(env: Mapping[str, str] = os.environ) -> Path:
    return _home(env, "XDG_CACHE_HOME", ".cache") / "vl-tui"


def runtime_home(env: Mapping[str, str] = os.environ) -> Path:
    """For sockets and locks. The fallback is named by user id: anybody may write to /tmp."""
    set_to = env.get("XDG_RUNTIME_DIR", "")
    return Path(set_to) / "vl-tui" if os.path.isabs(set_to) else Path(f"/tmp/vl-tui-{os.getuid()}")  # noqa: S108


def _home(env: Mapping[str, str], variable: str, below_home: str) -> Path:
    set_to = env.get(variable, "")
    if os.path.isabs(set_to):  # the XDG rules: a relative path is ignored
        return Path(set_to)
    return Path(env.get("HOME") or Path.home()) / below_home


def private(path: Path) -> Path:
    """Make ``path`` a folder that only this user can enter, or raise ``ConfigError``. A folder of another user, or a
    link in its place, is refused: what is put there would be theirs to read."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigError(f"{path} is not a folder of yours: remove it, or set XDG_RUNTIME_DIR to one that is.")
        if found.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"{path} can't be made or entered: {error.strerror}.") from None
    return path
