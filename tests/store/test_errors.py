"""What goes wrong with a store is told to a person: what, where, and what to do. Never with a secret in it."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from vl_agent.store import Denied, Moved, NoStore, NotFound, Store, StoreError, Unanswered, open_store

from vl_tui.demo.s3 import S3Server

SECRET = "the-secret-that-nobody-may-read"


async def _each_small_call(store: Store) -> list[StoreError]:
    errors = []
    for call in (
        store.put("k", b"1"), store.create("k", b"1"), store.swap("k", b"1", "v"), store.get("k"), store.list(""),
        store.folders("runs/"), store.delete("k"), store.get_part("k", 1, lambda block: None),
    ):  # fmt: skip
        with pytest.raises(StoreError) as caught:
            await call
        errors.append(caught.value)
    return errors


async def test_a_wrong_secret_is_denied_by_every_call_and_never_shown(s3: S3Server) -> None:
    store = open_store(f"s3://{s3.bucket}/x", {**s3.options, "secret_access_key": SECRET}, timeout_s=5.0)
    for error in await _each_small_call(store):
        assert isinstance(error, Denied), error
        assert "check keys, expiry and the bucket's policy" in str(error)
        assert SECRET not in str(error)


async def test_an_unknown_key_id_is_denied(s3: S3Server) -> None:
    store = open_store(f"s3://{s3.bucket}/x", {**s3.options, "access_key_id": "nobody"}, timeout_s=5.0)
    with pytest.raises(Denied, match="refuses our credentials"):
        await store.get("k")


class _NoBucket(BaseHTTPRequestHandler):
    """Answers as AWS does for a bucket that is not there. (SeaweedFS makes it.)"""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>"
        self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def no_bucket() -> Iterator[str]:
    yield from _served(_NoBucket)


def _served(answers: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(5)
    server.server_close()


async def test_a_bucket_that_is_not_there_is_told_by_every_call_and_is_not_a_missing_key(no_bucket: str) -> None:
    options = {"endpoint": no_bucket, "access_key_id": "a", "secret_access_key": SECRET}
    for error in await _each_small_call(open_store("s3://typo/x", options, timeout_s=5.0)):
        assert not isinstance(error, NotFound | Moved), error
        assert "s3://typo/x: there is no such bucket: create it" in str(error)


class _Conflict(BaseHTTPRequestHandler):
    """Answers as AWS does a conditional write that meets another one: nothing was written, ask again."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<Error><Code>ConditionalRequestConflict</Code><Message>A conflicting operation</Message></Error>"
        self.send_response(409)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def conflict() -> Iterator[str]:
    yield from _served(_Conflict)


async def test_a_swap_that_meets_another_write_has_lost_a_race(conflict: str) -> None:
    """409, not 412: who takes it for another error ends what only had to read again."""
    store = open_store("s3://bucket/x", {"endpoint": conflict, "access_key_id": "a", "secret_access_key": "b"})
    with pytest.raises(Moved, match="k has changed since it was read"):
        await store.swap("k", b"1", '"version"\x1f')


async def test_an_endpoint_that_nobody_answers_at_is_told_soon() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        endpoint = f"http://127.0.0.1:{held.getsockname()[1]}"
        options = {"endpoint": endpoint, "access_key_id": "a", "secret_access_key": SECRET}
        store = open_store("s3://bucket/x", options, timeout_s=1.0)
        began = time.monotonic()
        for error in await _each_small_call(store):
            assert isinstance(error, Unanswered), error
            assert f"Connection refused ({endpoint}). Check the network" in str(error)
            assert SECRET not in str(error)
        assert time.monotonic() - began < 20


async def test_a_server_that_never_answers_is_given_up_on() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        options = {
            "endpoint": f"http://127.0.0.1:{silent.getsockname()[1]}", "access_key_id": "a", "secret_access_key": "b",
        }  # fmt: skip
        store = open_store("s3://bucket/x", options, timeout_s=0.5)
        began = time.monotonic()
        with pytest.raises(Unanswered):
            await store.swap("k", b"1", "v")
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "key", ["", "a//b", "/a", "a/", "../a", "a/../../b", ".hidden", "a/.b", "a\0b", ".vl-store.lock"]
)
async def test_a_bad_key_never_leaves_the_folder(tmp_path: Path, key: str) -> None:
    store = open_store(f"file://{tmp_path}/shared")
    with pytest.raises(StoreError) as caught:
        await store.put(key, b"1")
    assert "key" in str(caught.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".vl-store.lock"]


async def test_a_folder_that_can_not_be_made_is_told_as_the_stores_own_fault() -> None:
    with pytest.raises(NoStore, match=r"/proc/none can't be made \(No such file or directory\)"):
        await open_store("file:///proc/none").create("k", b"1")


async def test_a_url_that_is_none_is_told_what_to_write() -> None:
    with pytest.raises(NoStore, match="s3://bucket/prefix.*file:///folder"):
        open_store("bucket/prefix")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_is_told_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = open_store(f"file://{tmp_path}/shared")
    version = await store.put("a/k", b"before")
    (tmp_path / "source").write_bytes(b"x" * 1000)

    def full(_fd: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for call in (
            store.put("a/k", b"after"), store.create("a/new", b"1"), store.swap("a/k", b"after", version),
            store.put_file("a/big", tmp_path / "source"),
        ):  # fmt: skip
            with pytest.raises(StoreError, match=r"the disk is full.*make room"):
                await call
    assert (await store.get("a/k")).data == b"before"
    assert [e.key for e in await store.list("")] == ["a/k"]
    assert [p.name for p in (tmp_path / "shared" / "a").iterdir()] == ["k"], "a half-written file was left"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]).returncode:
        pytest.skip("a real full disk needs a mount of our own")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_really_full_disk_is_told_and_works_again_with_room(tiny_disk: Path, tmp_path: Path) -> None:
    store = open_store(f"file://{tiny_disk}")
    await store.put("small", b"1")
    (tmp_path / "source").write_bytes(b"x" * (1 << 20))
    with pytest.raises(StoreError, match="the disk is full"):
        await store.put_file("big", tmp_path / "source")
    assert [e.key for e in await store.list("")] == ["small"]
    await store.put("other", b"2")


async def test_a_box_s_disk_that_is_full_is_told_when_a_file_is_fetched(tiny_disk: Path, tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/shared")
    await store.put("big", b"x" * (1 << 20))
    with pytest.raises(StoreError, match="disk is full"):
        await store.get_file("big", tiny_disk / "back", 1 << 20)


async def test_a_folder_that_may_not_be_written_is_denied(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "shared").mkdir(mode=0o500)
    with pytest.raises(Denied):
        await open_store(f"file://{tmp_path}/shared").put("k", b"1")
