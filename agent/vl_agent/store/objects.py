"""S3, GCS and Azure Blob through ``obstore``.

Two clients over the same bucket: one that may repeat a request by itself (reads, puts, deletes: harmless twice), one
that never does (create and swap: a repeated one answers for a write that its first sending made).
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore import exceptions as failed
from obstore.store import AzureStore, GCSStore, S3Store

from vl_agent.store.base import Denied, Entry, Exists, Moved, NoStore, NotFound, Stored, StoreError, Unanswered

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

T = TypeVar("T")

PART = 16 << 20
"""Least bytes of one part of a large upload; every part but the last has the same size, as R2 demands."""
MAX_PARTS = 9_000
UPLOADS_AT_ONCE = 8
RANGE = 64 << 20
RANGES_AT_ONCE = 4
BULK_TIMEOUT_S = 600.0
CREDENTIALS = ("access_key_id", "secret_access_key", "session_token")
_METADATA_SERVICE = "http://169.254.169.254/"
_CAUSE = re.compile(r'(?:message|error): "([^"]{1,160})"')
_PLACE = re.compile(r"https?://[^/\s]{1,200}")


class ObjectStore:
    """Objects below ``prefix`` in one bucket. A version is the ETag and, where there is one, the generation."""

    def __init__(self, url: str, options: Mapping[str, str], timeout_s: float) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._options: Mapping[str, str] = {}
        self._open(options)

    def renew(self, credentials: Mapping[str, str]) -> None:
        kept = {name: value for name, value in self._options.items() if name not in CREDENTIALS}
        self._open({**kept, **{name: credentials[name] for name in CREDENTIALS if name in credentials}})

    def _open(self, options: Mapping[str, str]) -> None:
        self._options = options
        self._client = _client(self.url, options, self._timeout_s, retries=3)
        self._once = _client(self.url, options, self._timeout_s, retries=0)
        self._bulk = _client(self.url, options, BULK_TIMEOUT_S, retries=3)

    async def put(self, key: str, data: bytes) -> str:
        result = await self._ask(key, lambda: obstore.put_async(self._client, key, data, use_multipart=False))
        return _token(result)

    async def create(self, key: str, data: bytes) -> str:
        result = await self._ask(
            key, lambda: obstore.put_async(self._once, key, data, mode="create", use_multipart=False)
        )
        return _token(result)

    async def swap(self, key: str, data: bytes, version: str) -> str:
        etag, _, generation = version.partition("\x1f")
        mode: Any = {name: value for name, value in (("e_tag", etag), ("version", generation)) if value}
        try:
            result = await self._ask(
                key, lambda: obstore.put_async(self._once, key, data, mode=mode, use_multipart=False)
            )
        except NotFound:  # AWS answers 404, others 412, when the key is gone
            raise Moved(f"{self.url}: {key} is gone.") from None
        except Exists:  # 409: it met another write of that key and was not done
            raise Moved(f"{self.url}: {key} has changed since it was read.") from None
        return _token(result)

    async def get(self, key: str) -> Stored:
        async def get() -> Stored:
            result = await obstore.get_async(self._client, key)
            return Stored(bytes(await result.bytes_async()), _token(result.meta))

        return await self._ask(key, get)

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        async def get_range() -> bytes:
            try:
                return bytes(await obstore.get_range_async(self._client, key, start=start, end=end))
            except failed.BaseError as error:
                if "416 Range Not Satisfiable" in str(error):  # the object ends before ``start``
                    return b""
                raise

        return b"" if end <= start else await self._ask(key, get_range)

    async def folders(self, prefix: str) -> list[str]:
        async def folders() -> list[str]:
            result = await obstore.list_with_delimiter_async(self._client, prefix=prefix.rstrip("/") or None)
            return sorted(path.rstrip("/").rpartition("/")[2] for path in result["common_prefixes"])

        return await self._ask(prefix, folders)

    async def list(self, prefix: str, after: str = "") -> list[Entry]:
        folder = prefix.rpartition("/")[0]  # object_store lists by whole path segments

        async def collect() -> list[Entry]:
            found: list[Entry] = []
            stream = obstore.list(self._client, prefix=folder or None, offset=after or None, chunk_size=1000)
            async for chunk in stream:
                found += [_entry(meta) for meta in chunk]
            return sorted((e for e in found if e.key.startswith(prefix) and e.key > after), key=lambda e: e.key)

        return await self._ask(prefix, collect)

    async def delete(self, key: str) -> None:
        try:
            await self._ask(key, lambda: obstore.delete_async(self._client, key))
        except NotFound:
            return

    async def put_file(self, key: str, path: Path, *, sent: Callable[[int], None] | None = None) -> None:
        size = path.stat().st_size
        part = max(PART, -(-size // MAX_PARTS + (1 << 20) - 1) >> 20 << 20) if size > PART else PART
        if size <= PART:
            await self.put(key, await asyncio.to_thread(path.read_bytes))
            if sent:
                sent(size)
            return
        await self._ask(
            key,
            lambda: obstore.put_async(
                self._bulk, key, _parts(path, part, sent), use_multipart=True, chunk_size=part,
                max_concurrency=UPLOADS_AT_ONCE,
            ),
            timeout_s=None,
        )  # fmt: skip

    async def get_file(self, key: str, path: Path, size: int) -> None:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        at_once = asyncio.Semaphore(RANGES_AT_ONCE)
        tasks: list[asyncio.Task[None]] = []
        try:
            if size:
                await asyncio.to_thread(_allocate, file, size)
            tasks = [
                asyncio.create_task(self._get_part(key, file, start, min(start + RANGE, size), at_once))
                for start in range(0, size, RANGE)
            ]
            await asyncio.gather(*tasks)
            await asyncio.to_thread(os.fsync, file)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            os.close(file)

    async def close(self) -> None:
        return

    async def _get_part(self, key: str, file: int, start: int, end: int, at_once: asyncio.Semaphore) -> None:
        async def stream() -> None:
            result = await obstore.get_async(self._bulk, key, options={"range": (start, end)})
            at = start
            async for chunk in result.stream(min_chunk_size=4 << 20):
                await asyncio.to_thread(os.pwrite, file, chunk, at)
                at += len(chunk)
            if at != end:
                raise StoreError(f"{self.url}: {key} ends at byte {at}, {end} were expected.")

        async with at_once:
            await self._ask(key, stream, timeout_s=None)

    async def _ask(self, key: str, act: Callable[[], Awaitable[T]], timeout_s: float | None = 0) -> T:
        """Await one request; obstore's errors become ours. ``timeout_s`` None: the client's own bulk timeout holds."""
        limit = self._timeout_s + 5 if timeout_s == 0 else timeout_s
        try:
            return await _within(limit, act)
        except (failed.NotFoundError, FileNotFoundError) as error:
            if "NoSuchBucket" in str(error):
                raise _told(self.url, key, str(error)) from None
            raise NotFound(f"{self.url}: there is no {key}.") from None
        except failed.AlreadyExistsError:
            raise Exists(f"{self.url}: {key} is there already.") from None
        except failed.PreconditionError as error:
            if "NoSuchBucket" in str(error):
                raise _told(self.url, key, str(error)) from None
            raise Moved(f"{self.url}: {key} has changed since it was read.") from None
        except (failed.PermissionDeniedError, failed.UnauthenticatedError) as error:
            raise Denied(_denied(self.url, str(error))) from None
        except asyncio.TimeoutError:
            raise Unanswered(f"{self.url}: no answer for {key}: check the network and the endpoint.") from None
        except (failed.BaseError, OSError, ValueError) as error:
            raise _told(self.url, key, str(error)) from None


async def _within(limit_s: float | None, act: Callable[[], Awaitable[T]]) -> T:
    """As ``asyncio.wait_for``, which before Python 3.12 loses a cancellation that comes together with the answer: who
    cancelled, and waits for the end, would wait for ever."""

    async def answer() -> T:
        return await act()

    task = asyncio.create_task(answer())
    try:
        await asyncio.wait({task}, timeout=limit_s)
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)


def _allocate(file: int, size: int) -> None:
    os.posix_fallocate(file, 0, size)


async def _parts(path: Path, part: int, sent: Callable[[int], None] | None) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, part):
            yield chunk
            if sent:
                sent(len(chunk))


def _entry(meta: Mapping[str, Any]) -> Entry:
    return Entry(meta["path"], meta["size"], _token(meta), meta["last_modified"].timestamp())


def _token(result: Mapping[str, Any]) -> str:
    return f"{result.get('e_tag') or ''}\x1f{result.get('version') or ''}"


def _denied(url: str, words: str) -> str:
    return f"{url}: the store refuses our credentials ({_short(words)}): check keys, expiry and the bucket's policy."


def _told(url: str, key: str, words: str) -> StoreError:
    """obstore's generic error, which carries the HTTP answer in its text, as one of ours."""
    if _METADATA_SERVICE in words:  # the last place where the client looks
        words = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role."
        return Denied(f"{url}: no credentials found: {words}")
    for mark in (
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "Access Denied",
        "403 Forbidden",
        "401 Unauthorized",
    ):
        if mark in words:
            return Denied(_denied(url, words))
    if "NoSuchBucket" in words:
        return NoStore(f"{url}: there is no such bucket: create it, or correct the store's URL.")
    return Unanswered(f"{url}: {key}: {_short(words)}. Check the network, the endpoint and the store itself.")


def _short(words: str) -> str:
    """The cause in obstore's many lines: the operating system's or the server's own word where there is one."""
    told, _, debug = words.partition("Debug source:")
    cause = _CAUSE.search(debug)
    if cause:
        return f"{cause[1]} ({place[0]})" if (place := _PLACE.search(told)) else cause[1]
    return " ".join(told.split())[:200]


def _client(url: str, options: Mapping[str, str], timeout_s: float, retries: int) -> Client:
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    endpoint = options.get("endpoint") or ""
    common: dict[str, Any] = {
        "prefix": prefix.strip("/") or None,
        "client_options": {
            "timeout": timedelta(seconds=timeout_s),
            "connect_timeout": timedelta(seconds=min(10.0, timeout_s)),
            "allow_http": endpoint.startswith("http://"),
        },
        "retry_config": {"max_retries": retries, "retry_timeout": timedelta(seconds=timeout_s)},
    }
    if scheme == "s3":
        config = {k: options[k] for k in ("access_key_id", "secret_access_key", "session_token") if options.get(k)}
        if endpoint:
            config["endpoint"] = endpoint
        config["region"] = options.get("region") or os.environ.get("AWS_REGION") or "us-east-1"
        return S3Store(bucket, config=config, **common)  # type: ignore[arg-type]
    if scheme == "gs":
        return GCSStore(bucket, **common)
    if scheme == "az":
        return AzureStore(bucket, **common)
    raise NoStore(f"{url}: write s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder.")
