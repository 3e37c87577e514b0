"""From the entries of ``fleet.yaml`` to providers. Knows every kind; keeps nothing."""

from __future__ import annotations

from pathlib import Path

from vl_tui.config import FleetConfig
from vl_tui.config.fleet import LocalProvider as LocalEntry
from vl_tui.config.fleet import ProviderConfig
from vl_tui.domain.box import SshAddress
from vl_tui.providers import local, ssh
from vl_tui.providers.base import Invalid, Provider
from vl_tui.ssh.hostkeys import Pins

__all__ = ["Provider", "local_socket", "open_providers"]


def open_providers(fleet: FleetConfig) -> list[Provider]:
    """A provider for each entry, in the file's order; ``{kind: local}`` without a name is one for each pretend provider
    of the embedded fleet, which is asked for them (blocks for milliseconds). The caller closes them. Raises ``Invalid``
    when two have one name, ``Transient`` when the embedded fleet is needed for its names and doesn't answer."""
    found = [provider for entry in fleet.providers for provider in _open(fleet, entry)]
    names = [provider.name for provider in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Invalid(f"{fleet.path}: two providers are called {twice[0]!r}.", "Give one of them another `name`.")
    return found


def local_socket(fleet: FleetConfig) -> Path:
    """Where the embedded fleet listens when ``fleet.yaml`` names no socket."""
    return fleet.runtime_dir / f"{fleet.fleet}.boxes.sock"


def _open(fleet: FleetConfig, entry: ProviderConfig) -> list[Provider]:
    if isinstance(entry, LocalEntry):
        socket = Path(entry.socket).expanduser() if entry.socket else local_socket(fleet)
        names = [entry.name] if entry.name else local.names(socket)
        return [local.LocalProvider(name, socket) for name in names]
    hosts = {host: SshAddress(host, alias=host) for host in entry.hosts}
    return [ssh.SshProvider(entry.name, hosts, entry.usd_hour, Pins(fleet.state_dir / "pins"))]
