"""The narrow interface that everything here asks of object storage, and the errors it answers with.

One contract suite (tests/store) is passed by every implementation. Keys are relative to the store's prefix, ``/``
separated. A *version* is an opaque token (an ETag) that changes with every write of different bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# StoreError
#   NotFound      no such key
#   Exists        create: the key is there already, or somebody is just making it (412, 409)
#   Moved         swap: the key's version is another one (412), being changed (409), or the key is gone
#   Unanswered    sent, but no answer came: it may or may not have happened
#   Denied        credentials are missing, wrong, expired or do not allow it
#   NoStore       the URL is none, or nothing is there: no such bucket
#   Unsafe        the store ignores conditions: it cannot be used


class StoreError(Exception):
    """The store said no or could not be asked. ``str()`` is one paragraph for a person."""


class NotFound(StoreError):
    """No such key."""


class Exists(StoreError):
    """``create``: the key is there already, or somebody is just making it: who needs to know looks."""


class Moved(StoreError):
    """``swap``: the key's version is not the one given any more, or the key is gone. Nothing was written."""


class Unanswered(StoreError):
    """No answer came. A read may be repeated; of a write nobody knows whether it happened: read back."""


class Denied(StoreError):
    """Credentials are missing, wrong, expired, or do not allow this."""


class NoStore(StoreError):
    """The URL isn't a store's, or there is no such bucket or folder."""


class Unsafe(StoreError):
    """The store ignores ``If-None-Match`` or ``If-Match``: two controllers would both win."""


@dataclass(frozen=True)
class Stored:
    data: bytes
    version: str


@dataclass(frozen=True)
class Entry:
    key: str
    size: int
    version: str
    modified: float = 0.0
    """Unix seconds by the store's clock at which it was written; 0: not known."""


class Store(Protocol):
    """Object storage below one prefix. Every call ends within a timeout; any may raise ``Denied`` or ``Unanswered``."""

    url: str

    async def put(self, key: str, data: bytes) -> str:
        """Write, whatever is there; return the new version. May be repeated."""
        ...

    async def create(self, key: str, data: bytes) -> str:
        """Write only if the key is not there. Raises ``Exists``. Never repeated by the client itself."""
        ...

    async def swap(self, key: str, data: bytes, version: str) -> str:
        """Write only if the key still has ``version``. Raises ``Moved``. Never repeated by the client itself."""
        ...

    async def get(self, key: str) -> Stored:
        """Raises ``NotFound``."""
        ...

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes ``start`` up to, not including, ``end``; fewer where the object ends before. Raises ``NotFound``."""
        ...

    async def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below ``prefix`` (which ends in ``/`` or is empty), sorted."""
        ...

    async def list(self, prefix: str, after: str = "") -> list[Entry]:
        """Everything whose key begins with ``prefix`` and sorts after ``after``, sorted by key."""
        ...

    async def delete(self, key: str) -> None:
        """A key that is not there is success. May be repeated."""
        ...

    async def put_file(self, key: str, path: Path, *, sent: Callable[[int], None] | None = None) -> None:
        """Write a file's content, in parallel parts when large, memory bounded. ``sent`` gets bytes as they go."""
        ...

    async def get_file(self, key: str, path: Path, size: int) -> None:
        """Fetch ``size`` bytes by parallel ranges straight into ``path`` (made or replaced) and fsync it."""
        ...

    def renew(self, credentials: Mapping[str, str]) -> None:
        """Go on with these (access_key_id, secret_access_key, session_token): those of before end soon. Requests under
        way end with theirs; nothing but the credentials changes."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
