"""A store that does not honour conditions is refused before anything is trusted to it."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from vl_agent.store import Denied, Unsafe, open_store, prove

from tests.store.memory import Ask, Memory, MemoryStore


class IgnoresCreate(Memory):
    def _create(self, key: str, data: bytes) -> str:
        return self._put(key, data)


class IgnoresSwap(Memory):
    def _swap(self, key: str, data: bytes, version: str) -> str:
        return self._put(key, data)


class LosesRaces(MemoryStore):
    """Honours conditions one request at a time: looks, and only then, not in one act, writes."""

    def __init__(self, op: str) -> None:
        super().__init__()
        self._op = op

    async def _ask(self, ask: Ask) -> object:
        if ask.op != self._op:
            return await super()._ask(ask)
        before = dict(self.memory.objects)
        await asyncio.sleep(0.01)
        Memory(before).perform(ask)  # raises as the store would have when it looked
        return self.memory.perform(Ask("put", ask.args[:2]))


@pytest.mark.parametrize("memory", [IgnoresCreate(), IgnoresSwap()], ids=["create", "swap"])
async def test_a_store_that_ignores_conditions_is_refused(memory: Memory) -> None:
    with pytest.raises(Unsafe, match="does not honour conditional writes"):
        await prove(MemoryStore(memory))
    assert memory.objects == {}, "the proof cleans up after itself"


@pytest.mark.parametrize("op", ["create", "swap"])
async def test_a_store_that_loses_races_is_refused(op: str) -> None:
    store = LosesRaces(op)
    with pytest.raises(Unsafe, match="at once 4 were told they won"):
        await prove(store)
    assert store.memory.objects == {}


async def test_a_store_that_refuses_us_is_not_called_unsafe() -> None:
    class Refuses(MemoryStore):
        async def _ask(self, ask: Ask) -> object:
            raise Denied("memory: no.")

    with pytest.raises(Denied):
        await prove(Refuses())


class _OldS3(BaseHTTPRequestHandler):
    """An S3 server of before conditional writes: it takes the headers and does not look at them."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes] = {}

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.objects[self.path] = body
        self._answer(200, etag=body)

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self._answer(204)

    def do_POST(self) -> None:  # DeleteObjects: clients delete in bulk
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(200, b'<?xml version="1.0"?><DeleteResult></DeleteResult>')

    def _answer(self, status: int, body: bytes = b"", etag: bytes | None = None) -> None:
        self.send_response(status)
        if etag is not None:
            self.send_header("ETag", f'"{hashlib.md5(etag, usedforsecurity=False).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def old_s3() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _OldS3)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(5)
    server.server_close()


async def test_an_s3_server_that_ignores_if_none_match_is_refused(old_s3: str) -> None:
    options = {"endpoint": old_s3, "access_key_id": "a", "secret_access_key": "b"}
    with pytest.raises(Unsafe, match=r"If-None-Match.*Use AWS S3"):
        await prove(open_store("s3://bucket/here", options, timeout_s=5.0))
