"""``fleet.yaml``: the store, the providers, and the folders that belong to one fleet on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from vl_tui.config import folders, quantities
from vl_tui.config.check import Strict, check
from vl_tui.config.document import ConfigError, read_document

_HOST = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:@%\[\]-]{0,254}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_SCHEMES = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder"

Seconds = Annotated[float, BeforeValidator(quantities.duration)]
ProviderName = Annotated[str, BeforeValidator(quantities.name)]


class SshProvider(Strict):
    """Boxes that the person already has: names of ``~/.ssh/config``, or ``user@host:port``."""

    kind: Literal["ssh"]
    hosts: Annotated[tuple[str, ...], Field(strict=False, examples=["[gpu1, gpu2]"])]
    usd_hour: float = Field(0.0, ge=0, le=1e6)
    name: ProviderName = "ssh"

    @field_validator("hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("is an empty list: name at least one host.")
        for host in value:
            if not _HOST.fullmatch(host):  # also: a name that begins with '-' would be an option of ssh
                raise ValueError(f"{quantities.shown(host)} is not a host: use a name, or user@host:port.")
        if len(set(value)) != len(value):
            raise ValueError("names a host twice.")
        return value


class LocalProvider(Strict):
    """The embedded fleet. Without a name: every pretend provider that it has."""

    kind: Literal["local"]
    socket: str | None = None
    name: ProviderName | None = None


ProviderConfig = Annotated[SshProvider | LocalProvider, Field(discriminator="kind")]


class Defaults(Strict):
    """Seconds; what a run gets that doesn't say otherwise."""

    grace: Annotated[Seconds, Field(ge=1, le=3600)] = 15.0
    """Silence of every witness after which a box counts as lost."""
    poll: Annotated[Seconds, Field(ge=0.5, le=600)] = 5.0
    """How often providers are asked about their boxes."""
    beat: Annotated[Seconds, Field(ge=0.2, le=60)] = 2.0
    """How often a box writes its heartbeat into the store."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 3
    """Durable checkpoints kept."""

    @model_validator(mode="after")
    def _grace_outlasts_beats(self) -> Defaults:
        if self.grace < 2 * self.beat:
            raise ValueError(
                f"grace ({self.grace:g}s) must be at least twice beat ({self.beat:g}s), or healthy boxes look lost."
            )
        return self


class BoxCredentials(Strict):
    """What boxes reach the store with. Seconds."""

    source: Literal["auto", "own", "keys"] = "auto"
    """auto: credentials for the run's prefix alone, where the store issues them; own: the box's own role; keys: the
    fleet's own, unscoped."""
    role: str | None = Field(
        default=None, min_length=20, max_length=2048, examples=["arn:aws:iam::123456789012:role/vl-box"]
    )
    """Assumed through STS with a policy for the run's prefix alone."""
    lasts: Annotated[Seconds, Field(ge=900, le=43200)] = 3600.0
    """Renewed before they end."""

    @model_validator(mode="after")
    def _role_for_auto(self) -> BoxCredentials:
        if self.role and self.source != "auto":
            raise ValueError(f"`role` goes with `source: auto`, not with {self.source!r}: remove one of them.")
        return self


class FleetConfig(Strict):
    """A validated ``fleet.yaml``, and this machine's folders for that fleet."""

    fleet: Annotated[str, BeforeValidator(quantities.name)] = Field(examples=["mine"])
    store: str = Field(examples=["s3://bucket/prefix"])
    endpoint: str | None = None
    region: str | None = None
    providers: Annotated[tuple[ProviderConfig, ...], Field(strict=False)] = Field(
        examples=["[{kind: ssh, hosts: [gpu1]}]"]
    )
    defaults: Defaults = Defaults()
    box_credentials: BoxCredentials = BoxCredentials()
    state: str | None = Field(None, examples=["/home/me/vl-state"])
    """Folder of this fleet's keys and secrets on this machine; None: the XDG state folder."""
    _path: Path = PrivateAttr(Path("fleet.yaml"))

    @property
    def path(self) -> Path:
        """The file this was read from, absolute: a detached controller reads it again."""
        return self._path

    @property
    def runtime_dir(self) -> Path:
        """Sockets, locks and the controller's log of every fleet: ``<fleet>.lock`` and so on."""
        return folders.private(folders.runtime_home())

    @property
    def state_dir(self) -> Path:
        """This fleet's host keys, ssh key and secrets; survives a restart of the machine."""
        if self.state is not None:
            return folders.private(Path(self.state).expanduser())
        folders.private(folders.state_home())
        return folders.private(folders.state_home() / self.fleet)

    @property
    def cache_dir(self) -> Path:
        """What can be fetched again: wheels for the boxes."""
        return folders.private(folders.cache_home())

    @property
    def store_options(self) -> dict[str, str]:
        """What ``open_store`` needs besides the URL and credentials."""
        named = {"endpoint": self.endpoint, "region": self.region}
        return {key: value for key, value in named.items() if value}

    @field_validator("store")
    @classmethod
    def _store(cls, value: str) -> str:
        return _check_store(value)

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if "@" in parts.netloc or parts.query:  # not shown: it may be a key
                raise ValueError("holds credentials: remove them; they come from the usual places, never from here.")
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(
                    f"{quantities.shown(value)} is not an address: write https://host or http://host:port."
                )
        return value

    @field_validator("providers")
    @classmethod
    def _some(cls, value: tuple[ProviderConfig, ...]) -> tuple[ProviderConfig, ...]:
        if not value:
            raise ValueError("is an empty list: name at least one provider, for example {kind: ssh, hosts: [gpu1]}.")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> FleetConfig:
        if self.endpoint and not self.store.startswith("s3://"):
            raise ValueError("`endpoint` is for s3:// stores only: remove it.")
        names = [provider.name or "local" for provider in self.providers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two providers are called {twice[0]!r}: give one of them another `name`.")
        return self


def _check_store(value: str) -> str:
    words = f"{quantities.shown(value)} is not a store: write {_SCHEMES}."
    try:
        parts = urlsplit(value)
    except ValueError:
        raise ValueError(words) from None
    if parts.query or "@" in parts.netloc:  # not shown: it may be a key
        raise ValueError("holds credentials: remove them; they come from the usual places, never from here.")
    if parts.fragment or any(ord(char) < 33 for char in value):
        raise ValueError(words)
    if ".." in parts.path.split("/"):
        raise ValueError(f"{words} Without '..'.")
    if parts.scheme == "file":
        if parts.netloc or len(parts.path) < 2:
            raise ValueError(f"{quantities.shown(value)}: a file store is an absolute path: file:///folder.")
    elif parts.scheme not in ("s3", "gs", "az") or not _BUCKET.fullmatch(parts.netloc):
        raise ValueError(words)
    return value.rstrip("/")


def default_fleet_path() -> Path:
    """``~/.config/vl-tui/fleet.yaml``, or where XDG_CONFIG_HOME says."""
    return folders.config_home() / "fleet.yaml"


def load_fleet(path: Path | None = None) -> FleetConfig:
    """Read a ``fleet.yaml``; None: the person's own. Raises ``ConfigError``."""
    where = (path or default_fleet_path()).expanduser().absolute()
    if not where.exists():
        raise ConfigError(
            f"{where}: no such file. Write one with at least `fleet: mine`, `store: s3://bucket/prefix` and"
            " `providers: [{kind: ssh, hosts: [gpu1]}]`, or name another with --fleet; `vl-tui demo` needs none."
        )
    config = check(read_document(where), FleetConfig)
    config._path = where
    return config
