"""A TCP relay that can fall silent: a partition without FIN or RST, after which the bytes held come through."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from typing import Any

CHUNK = 1 << 16
CONNECT_S = 10.0


class Relay:
    """``127.0.0.1:port`` leads to ``target`` while the relay flows. While it is silent nothing is read or passed on in
    either direction, ends of streams included; the kernel still accepts new connections, which then hang."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.port = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        listener = socket.socket()
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        self._listener, self.port = listener, listener.getsockname()[1]
        self._start(self._accept(listener))

    def silence(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    async def close(self) -> None:
        """Cut everything at once: both ends see a reset."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._flowing.wait()
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError:  # out of files, or the client is gone again: the next one may do better
                await asyncio.sleep(0.1)
                continue
            client.setblocking(False)
            self._start(self._carry(client))

    async def _carry(self, client: socket.socket) -> None:
        """One connection, from its acceptance to the end of both directions."""
        server = socket.socket()
        server.setblocking(False)
        clean = False
        try:
            await self._flowing.wait()
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.sock_connect(server, self.target), CONNECT_S)
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await _both(self._pump(client, server), self._pump(server, client))
            clean = True
        except (OSError, asyncio.TimeoutError):  # one end was reset or refused: so is the other, once it flows
            await self._flowing.wait()
        finally:
            for one in (client, server):
                if not clean:
                    with contextlib.suppress(OSError):
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.close()

    async def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._flowing.wait()
            chunk = await loop.sock_recv(source, CHUNK)
            await self._flowing.wait()
            if not chunk:
                sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(sink, chunk)


async def _both(*works: Coroutine[Any, Any, None]) -> None:
    """Run to the end of all, or to the first error; none is left running."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
