"""A box's instance metadata in the form of AWS IMDSv2: a token first, then what a notice watcher asks for.

It is the machine's own service, on its host: a partition of the box's network doesn't reach it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time

from vl_agent.protocol import Market

TOKEN_PATH = "/latest/api/token"  # noqa: S105 - a path
TOKEN_HEADER = "x-aws-ec2-metadata-token"  # noqa: S105 - a header's name
TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
_MOST_TTL_S = 21600
_IDLE_S = 60.0


class Metadata:
    """Served on ``127.0.0.1:port`` until closed."""

    def __init__(self, instance: str, place: str, market: Market) -> None:
        self._plain = {
            "instance-id": instance,
            "placement/availability-zone": place,
            "instance-life-cycle": "spot" if market == "spot" else "on-demand",
        }
        self._tokens: dict[str, float] = {}
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 14)
        self.port = self._server.sockets[0].getsockname()[1]

    def give_notice(self, at: float) -> None:
        """From now on ``spot/instance-action`` says that the box is terminated at ``at`` (unix seconds)."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
        self._plain["spot/instance-action"] = json.dumps({"action": "terminate", "time": stamp})
        self._plain["spot/termination-time"] = stamp

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                async with asyncio.timeout(_IDLE_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    method, path, headers = _parsed(head)
                    await reader.readexactly(int(headers.get("content-length", "0")))
                status, body = self._answer(method, path, headers)
                close = headers.get("connection", "").lower() == "close"
                writer.write(_reply(status, body, close=close))
                await writer.drain()
                if close:
                    return
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError, ValueError):
            return  # the client left, or does not speak HTTP
        finally:
            self._open.discard(writer)
            writer.close()

    def _answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[str, str]:
        path = path.partition("?")[0].rstrip("/")
        if path == TOKEN_PATH:
            return self._token(method, headers)
        if method != "GET":
            return "405 Method Not Allowed", ""
        if self._tokens.get(headers.get(TOKEN_HEADER, ""), 0.0) < time.monotonic():
            return "401 Unauthorized", ""
        found = self._plain.get(path.removeprefix("/latest/meta-data/"))
        return ("404 Not Found", "") if found is None else ("200 OK", found)

    def _token(self, method: str, headers: dict[str, str]) -> tuple[str, str]:
        ttl = headers.get(TTL_HEADER, "")
        if method != "PUT":
            return "405 Method Not Allowed", ""
        if not ttl.isdecimal() or not 1 <= int(ttl) <= _MOST_TTL_S:
            return "400 Bad Request", ""
        now = time.monotonic()
        self._tokens = {token: until for token, until in self._tokens.items() if until > now}
        token = secrets.token_urlsafe(32)
        self._tokens[token] = now + int(ttl)
        return "200 OK", token


def _parsed(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, path, headers by lower-case name. Raises ``ValueError``."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines if line)
    return method, path, {name.strip().lower(): value.strip() for name, _, value in pairs}


def _reply(status: str, body: str, *, close: bool) -> bytes:
    payload = body.encode()
    lines = (
        f"HTTP/1.1 {status}",
        "Content-Type: text/plain",
        f"Content-Length: {len(payload)}",
        f"Connection: {'close' if close else 'keep-alive'}",
    )
    return "\r\n".join([*lines, "", ""]).encode() + payload
