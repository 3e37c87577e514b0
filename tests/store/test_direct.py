"""Large objects by plain HTTP: what a network can do to a GET, told apart from what our own disk does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from vl_agent.store.direct import Connections, Cut, Refusal, Unheard, reachable

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


@contextmanager
def server(*talks: Callable[[socket.socket], None]) -> Iterator[str]:
    """Talks to one connection after the other; a talk that returns hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for talk in talks:
                connection, _ = listening.accept()
                with connection, suppress(OSError):
                    talk(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/key?signature"
        thread.join(10)
        assert not thread.is_alive(), "the server waits for a connection that nobody made"


def asked(connection: socket.socket) -> None:
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        more = connection.recv(4096)
        if not more:
            raise ConnectionError
        got += more
    assert got.startswith(b"GET /key?signature HTTP/1.1\r\n")


def answers(body: bytes, times: int = 1, said: int | None = None) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        for _ in range(times):
            asked(connection)
            connection.sendall(HEAD % (len(body) if said is None else said) + body)

    return talk


def get(connections: Connections, url: str, cut: Cut | None = None, stall_s: float = 20.0) -> bytes:
    whole = bytearray()
    connections.get(url, whole.extend, cut or Cut(), stall_s)
    return bytes(whole)


def test_a_connection_is_used_again() -> None:
    connections = Connections()
    with server(answers(b"one", times=3)) as url:
        assert [get(connections, url) for _ in range(3)] == [b"one"] * 3
        connections.close()


def test_a_connection_that_the_store_has_closed_meanwhile_is_made_anew() -> None:
    connections = Connections()
    with server(answers(b"one"), answers(b"two")) as url:
        assert get(connections, url) == b"one"
        assert get(connections, url) == b"two"


def test_after_an_answer_that_was_cut_nothing_is_read_from_that_connection() -> None:
    connections = Connections()
    with server(answers(b"12345", said=9), answers(b"whole")) as url:
        assert get(connections, url) == b"12345", "who asked knows the size"
        assert get(connections, url) == b"whole"


def test_another_answer_than_the_object_is_a_refusal_with_the_stores_words() -> None:
    def refuses(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 12\r\n\r\nExpiredToken")

    with server(refuses) as url, pytest.raises(Refusal, match="403 Forbidden: ExpiredToken") as caught:
        get(Connections(), url)
    assert caught.value.status == 403


@pytest.mark.parametrize("words", [b"", b"SSH-2.0-what\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"])
def test_what_is_no_answer_is_unheard(words: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(words)

    with server(talk) as url, pytest.raises(Unheard):
        get(Connections(), url)


def test_silence_ends() -> None:
    over = threading.Event()
    with server(lambda connection: bool(over.wait(20)) or None) as url:
        with pytest.raises(Unheard, match="timed out"):
            get(Connections(), url, stall_s=0.1)
        over.set()


def test_a_cut_ends_a_get_that_waits() -> None:
    cut, over = Cut(), threading.Event()

    def half(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(HEAD % 9 + b"1234")
        cut.now()
        over.wait(20)

    with server(half) as url:
        with pytest.raises(Unheard):
            get(Connections(), url, cut)
        over.set()


def test_what_is_cut_already_asks_nothing() -> None:
    cut = Cut()
    cut.now()
    with pytest.raises(Unheard, match="cut"):
        get(Connections(), "http://127.0.0.1:9/key?signature", cut)


def test_what_the_taker_raises_comes_through_and_its_connection_is_not_used_again() -> None:
    def full(block: memoryview) -> None:
        raise OSError(28, "No space left on device")

    connections = Connections()
    with server(answers(b"x" * 4096), answers(b"two")) as url:
        with pytest.raises(OSError, match="No space left"):
            connections.get(url, full, Cut(), 20.0)
        assert get(connections, url) == b"two"


@pytest.mark.parametrize(
    ("environment", "direct"),
    [({}, True), ({"https_proxy": "http://proxy:3128"}, False), ({"http_proxy": "http://proxy:3128"}, True),
     ({"https_proxy": "http://proxy:3128", "no_proxy": "s3.example"}, True)],
)  # fmt: skip
def test_behind_a_proxy_obstore_does_it_all(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], direct: bool
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert reachable("https://s3.example") is direct
