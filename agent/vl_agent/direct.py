"""HTTP asked directly: never through a proxy, no redirect followed, with a limit to time and size.

For a machine's own metadata service (the link-local address is the machine itself, and what a proxy would answer there
is another machine's) and for the few requests by which a box ends itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

MOST = 64 * 1024
"""Bytes of an answer that are read."""


class NoAnswer(OSError):
    """Nothing came that can be used. ``str()`` says what went wrong, never what was sent."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name."""
    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace").strip()


async def ask(
    base: str, method: str, path: str, headers: Mapping[str, str] | None = None, *, body: bytes = b"",
    timeout_s: float = 2.0,
) -> Reply:  # fmt: skip
    """One request to ``base`` (``http://host:port``); its answer, whatever the status. Raises ``NoAnswer``, also when
    it has not come whole within ``timeout_s``. The thread that waits holds nobody up: it is cut off when it is late."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[Reply] = loop.create_future()
    connection = _connection(base, timeout_s)

    def settle(reply: Reply | None, why: str) -> None:
        if waiting.done():
            return
        if reply is None:
            waiting.set_exception(NoAnswer(why))
        else:
            waiting.set_result(reply)

    def work() -> None:
        reply, why = None, ""
        try:
            reply = _exchange(connection, method, path, dict(headers or {}), body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = f"{base}: {error or type(error).__name__}"
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, reply, why)

    threading.Thread(target=work, name=f"ask {base}", daemon=True).start()
    try:
        await asyncio.wait({waiting}, timeout=timeout_s)  # not wait_for: up to 3.11 it may swallow a cancellation
        if not waiting.done():
            raise NoAnswer(f"{base}: no answer within {timeout_s:g} s")
        return waiting.result()
    finally:
        waiting.cancel()
        _cut(connection)


def _connection(base: str, timeout_s: float) -> http.client.HTTPConnection:
    try:
        parts = urlsplit(base)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise NoAnswer(f"{base!r} is no address") from None
    if not host or parts.scheme not in ("http", "https"):
        raise NoAnswer(f"{base!r} is no address")
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=timeout_s)
    return http.client.HTTPConnection(host, port, timeout=timeout_s)


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str], body: bytes
) -> Reply:
    try:
        connection.request(method, path, body=body or None, headers={"Connection": "close", **headers})
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, found, answer.read(MOST))
    finally:
        connection.close()


def _cut(connection: http.client.HTTPConnection) -> None:
    """Wake a thread that still waits for the answer."""
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
