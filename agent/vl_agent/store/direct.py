"""GET of a large object by plain HTTP on a thread, from a URL that the store's client has signed.

Blocks arrive in one small buffer, used again and again, and are handed on while they are in the processor's cache: a
third less CPU than through obstore's stream, and no more memory than the buffers (``python -m bench.restore``).
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from vl_agent.store.base import Take

BLOCK = 1 << 20
CONNECT_S = 10.0
_MOST_WORDS = 2000


class Refusal(Exception):
    """The store's answer is not the object."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status} {words}")
        self.status = status


class Unheard(Exception):
    """The network's failure: no answer, or not to its end. The cause is what the system said."""


class Cut:
    """Ends a GET from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.is_cut = False

    def now(self) -> None:
        with self._lock:
            self.is_cut = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def watch(self, one: socket.socket | None) -> None:
        """The socket that is in use now. Raises ``Unheard`` when it is cut already."""
        with self._lock:
            self._socket = one
            if self.is_cut:
                raise Unheard("cut")


class Connections:
    """Kept alive and used again, by any thread."""

    def __init__(self) -> None:
        self._idle: deque[http.client.HTTPConnection] = deque()

    def get(self, url: str, take: Take, cut: Cut, stall_s: float) -> None:
        """Give all bytes of the answer to ``take``. ``stall_s``: how long nothing may arrive. Raises ``Refusal``,
        ``Unheard``, and what ``take`` raises."""
        connection, response = self._asked(url, cut, stall_s)
        whole = False
        try:
            if response.status != 200:
                raise Refusal(response.status, f"{response.reason}: {_words(response)}")
            view = memoryview(bytearray(BLOCK))
            while count := _read(response, view):
                take(view[:count])
            cut.watch(None)
            whole = response.isclosed() and not response.length and not response.will_close
        finally:
            if whole:
                self._idle.append(connection)
            else:
                connection.close()

    def _asked(self, url: str, cut: Cut, stall_s: float) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        with suppress(IndexError, Unheard):  # none is left, or the store has closed it meanwhile
            used = self._idle.pop()
            return used, _ask(used, url, cut, stall_s)
        fresh = _connection(url)
        return fresh, _ask(fresh, url, cut, stall_s)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


@contextmanager
def cut_when_it_stalls(cut: Cut, take: Take, stall_s: float) -> Iterator[Take]:
    """Gives ``take``, watched from the event loop: ``stall_s`` without a block are the end. A socket's own timeout is
    not enough, single bytes get past it."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle
    blocks = 0

    def counted(block: memoryview) -> None:
        nonlocal blocks
        take(block)
        blocks += 1

    def look(before: int) -> None:
        nonlocal timer
        if blocks == before:
            cut.now()
        else:
            timer = loop.call_later(stall_s, look, blocks)

    timer = loop.call_later(stall_s, look, 0)
    try:
        yield counted
    finally:
        timer.cancel()


def reachable(endpoint: str) -> bool:
    """Whether no proxy of this machine's environment stands between us and the store: then obstore does it all."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    return not urllib.request.getproxies().get(parts.scheme) or bool(urllib.request.proxy_bypass(host))


def _connection(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=CONNECT_S)


def _ask(connection: http.client.HTTPConnection, url: str, cut: Cut, stall_s: float) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    try:
        with _heard():
            cut.watch(connection.sock)
            if connection.sock is None:
                connection.connect()
                cut.watch(connection.sock)
            connection.sock.settimeout(stall_s)
            connection.request("GET", f"{parts.path}?{parts.query}")
            return connection.getresponse()
    except BaseException:
        connection.close()
        raise


def _read(response: http.client.HTTPResponse, view: memoryview) -> int:
    with _heard():
        return response.readinto(view)


def _words(response: http.client.HTTPResponse) -> str:
    with _heard():
        return response.read(_MOST_WORDS).decode("utf-8", "replace")


@contextmanager
def _heard() -> Iterator[None]:
    """The system's errors become ``Unheard``: one of the disk that the bytes go to stays what it is."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise Unheard(str(error) or type(error).__name__) from error
