"""Object storage: ``open_store`` gives a ``Store`` for a URL. ``obstore`` is imported only for URLs that need it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from vl_agent.store.base import (
    Denied,
    Entry,
    Exists,
    Moved,
    NoStore,
    NotFound,
    Store,
    Stored,
    StoreError,
    Take,
    Unanswered,
    Unsafe,
)  # fmt: skip
from vl_agent.store.proof import prove

__all__ = [
    "Denied", "Entry", "Exists", "Moved", "NoStore", "NotFound", "Store", "StoreError", "Stored",
    "Take", "Unanswered", "Unsafe", "leave", "open_store", "prove",
]  # fmt: skip


def open_store(url: str, options: Mapping[str, str] | None = None, *, timeout_s: float = 30.0) -> Store:
    """The store at ``url``: ``s3://``, ``gs://``, ``az://`` or ``file:///``. ``options``: endpoint, region,
    access_key_id, secret_access_key, session_token where they apply. The environment's ``VL_STORE_ENDPOINT``, set on a
    box that reaches the store under another address, replaces the endpoint. ``timeout_s`` holds for each small request.
    Raises ``StoreError`` for a URL that is none."""
    if url.startswith("file:///"):
        from vl_agent.store.files import FileStore

        return FileStore(Path(url.removeprefix("file://")))
    from vl_agent.store.objects import ObjectStore

    chosen = dict(options or {})
    endpoint = os.environ.get("VL_STORE_ENDPOINT")
    if endpoint:
        chosen["endpoint"] = endpoint
    return ObjectStore(url.rstrip("/"), chosen, timeout_s)


def leave(code: int) -> NoReturn:
    """End this process with ``code``, without Python's own way out: an answer that reaches one of obstore's threads
    while the interpreter is being taken down aborts the process (exit code 134; one in ten with requests under way)."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
