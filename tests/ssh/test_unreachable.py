"""A box that can't be reached is told in one paragraph: which one, where, why."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.ssh.box import Box, Listener, until
from vl_tui.domain.box import SshAddress
from vl_tui.ssh.connection import Unreachable, connect
from vl_tui.ssh.hostkeys import Pins
from vl_tui.ssh.link import BoxLink

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def told(folder: Path, host: str, port: int = 1, key: str = "") -> str:
    address = SshAddress(host, port, "root", (key,) if key else ())
    with pytest.raises(Unreachable) as caught:
        await connect(address, box_id="b", pins=Pins(folder / "pins"), timeout=5)
    words = str(caught.value)
    assert "\n" not in words
    assert words.startswith(f"{host}:{port}: ")
    assert words.count(host) == 1
    assert "Errno" not in words
    assert "call failed" not in words
    return words


def fails(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """Every connection attempt ends so: not every machine has a network without a route, or a DNS that says no."""

    async def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", refuse)


async def test_a_closed_port(tmp_path: Path) -> None:
    assert os.strerror(errno.ECONNREFUSED) in await told(tmp_path, "127.0.0.1")


async def test_no_route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, OSError(errno.EHOSTUNREACH, "Connect call failed ('198.18.0.9', 22)"))
    assert "No route to host" in await told(tmp_path, "198.18.0.9", 22)


async def test_a_name_with_several_addresses_none_of_which_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = "[Errno 111] Connect call failed ('::1', 22, 0, 0), [Errno 101] Connect call failed ('198.18.0.9', 22)"
    fails(monkeypatch, OSError(f"Multiple exceptions: {each}"))
    assert (await told(tmp_path, "gpu9", 22)).endswith("Connection refused, Network is unreachable")


async def test_a_name_that_dns_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    assert "Name or service not known" in await told(tmp_path, "gpu9.invalid", 22)


@pytest.mark.parametrize("host", ["a..b", "x" * 300, "ü" * 70])
async def test_a_name_that_can_be_none(tmp_path: Path, host: str) -> None:
    await told(tmp_path, host)


@pytest.mark.parametrize("port", [0, -1, 70000])
async def test_a_port_that_is_none(tmp_path: Path, port: int) -> None:
    await told(tmp_path, "127.0.0.1", port)


async def test_something_that_is_no_sshd(tmp_path: Path) -> None:
    async def web(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n" * 100)
        await writer.drain()
        writer.close()

    async def shut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    for serve in (web, shut):
        async with served(serve) as port:
            await told(tmp_path, "127.0.0.1", port)


async def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path}/none: No such file" in await told(tmp_path, "127.0.0.1", key=f"{tmp_path}/none")


async def test_the_link_goes_on_trying_and_comes_up_when_the_box_does(box: Box) -> None:
    box.sshd.stop()
    await box.submit()
    listener = Listener()
    link: BoxLink = box.link(listener)
    task = box.begin(link)
    await until(lambda: sum(name == "down" for name, _ in listener.states) >= 2, "two tries")
    assert all("\n" not in words for name, words in listener.states if name == "down")
    assert not task.done()
    box.sshd.start()
    await until(lambda: listener.phase() == "prepared", "up")
