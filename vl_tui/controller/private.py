"""What this side keeps of a fleet on its own disk: the fleet's SSH key and the values of runs' secrets."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from vl_agent.protocol import RunSpec, check_name

from vl_tui.config import ConfigError, folders

KEY_NAME = "id_ed25519"


def fleet_key(state_dir: Path) -> tuple[Path, str]:
    """The fleet's own key, made once: (private key file, public key line). A detached controller has no agent and
    nobody to type a passphrase, so launched boxes get this key."""
    import asyncssh

    path = state_dir / KEY_NAME
    if not path.exists():
        key = asyncssh.generate_private_key("ssh-ed25519", comment=f"vl-tui {state_dir.name}")
        with tempfile.NamedTemporaryFile("wb", dir=state_dir, delete=False) as file:  # made 0600
            file.write(key.export_private_key())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # the first of two wins, and both read the same
            os.link(file.name, path)
        os.unlink(file.name)
    try:
        public = asyncssh.read_private_key(path).export_public_key().decode().strip()
    except (OSError, asyncssh.KeyImportError) as error:
        raise ConfigError(f"{path} can't be read as a key: {error}. Remove it, and a new one is made.") from None
    return path, public


class Secrets:
    """Values that ``submit`` left for this side's controller, by run. Never logged, never in an exception."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = folders.private(state_dir / "secrets")

    def of(self, spec: RunSpec) -> dict[str, str]:
        """The run's secrets that there are values for."""
        if not spec.secrets:
            return {}
        try:
            body = json.loads((self._folder / f"{check_name(spec.name)}.json").read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(body, dict):
            return {}
        return {name: body[name] for name in spec.secrets if isinstance(body.get(name), str)}

    def missing(self, spec: RunSpec) -> tuple[str, ...]:
        found = self.of(spec)
        return tuple(name for name in spec.secrets if name not in found)
