"""A store in memory, for tests only: what S3 promises, and what a network does to requests.

``Memory`` is the store itself: one request in, one answer out. ``MemoryStore`` puts a network before it: a ``fault``
function sees each request and may answer with a fate for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vl_agent.store import Entry, Exists, Moved, NotFound, Stored, StoreError, Take, Unanswered

Fate = Literal["ok", "lost", "lost reply", "late", "twice", "crash before", "crash after", "crash, late"]
# ok            it happens, the answer comes
# lost          it never arrives; no answer
# lost reply    it happens; no answer
# late          no answer now; it happens some time later
# twice         it happens, the answer comes; a copy of it arrives some time later
# crash before  the caller dies before it is sent
# crash after   it happens, the caller dies
# crash, late   the caller dies; it happens some time later

FATES: tuple[Fate, ...] = (
    "ok", "lost", "lost reply", "late", "twice", "crash before", "crash after", "crash, late",
)  # fmt: skip


class Crash(Exception):
    """The caller has died here."""


@dataclass(frozen=True)
class Ask:
    """One request: the name of a ``Store`` method and its arguments."""

    op: str
    args: tuple[Any, ...]

    @property
    def key(self) -> str:
        return str(self.args[0])


@dataclass
class Memory:
    """Objects by key. A version is the MD5 of the bytes, as an S3 ETag is: equal bytes, equal version."""

    objects: dict[str, bytes] = field(default_factory=dict)

    def perform(self, ask: Ask) -> Any:
        """The answer. Raises what a ``Store`` raises."""
        return getattr(self, f"_{ask.op}")(*ask.args)

    def _put(self, key: str, data: bytes) -> str:
        self.objects[key] = data
        return _etag(data)

    def _create(self, key: str, data: bytes) -> str:
        if key in self.objects:
            raise Exists(f"memory: {key} is there already.")
        return self._put(key, data)

    def _swap(self, key: str, data: bytes, version: str) -> str:
        if key not in self.objects or _etag(self.objects[key]) != version:
            raise Moved(f"memory: {key} has changed since it was read.")
        return self._put(key, data)

    def _get(self, key: str) -> Stored:
        if key not in self.objects:
            raise NotFound(f"memory: there is no {key}.")
        return Stored(self.objects[key], _etag(self.objects[key]))

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        return self._get(key).data[start : max(start, end)]

    def _list(self, prefix: str, after: str = "") -> list[Entry]:
        keys = sorted(k for k in self.objects if k.startswith(prefix) and k > after)
        return [Entry(k, len(self.objects[k]), _etag(self.objects[k])) for k in keys]

    def _folders(self, prefix: str) -> list[str]:
        below = (k.removeprefix(prefix) for k in self.objects if k.startswith(prefix))
        return sorted({k.partition("/")[0] for k in below if "/" in k})

    def _delete(self, key: str) -> None:
        self.objects.pop(key, None)


class MemoryStore:
    """A ``Store`` over a ``Memory``; several may share one. ``fault`` decides the fate of each request."""

    def __init__(self, memory: Memory | None = None, fault: Callable[[Ask], Fate] | None = None) -> None:
        self.url = "memory:"
        self.memory = memory or Memory()
        self.fault = fault
        self.network: list[Ask] = []
        """Requests that are still on their way."""
        self.asked: list[Ask] = []

    def arrive(self) -> None:
        """Everything that was late arrives now, in order."""
        late, self.network = self.network, []
        for ask in late:
            self._effect(ask)

    async def put(self, key: str, data: bytes) -> str:
        return str(await self._ask(Ask("put", (key, data))))

    async def create(self, key: str, data: bytes) -> str:
        return str(await self._ask(Ask("create", (key, data))))

    async def swap(self, key: str, data: bytes, version: str) -> str:
        return str(await self._ask(Ask("swap", (key, data, version))))

    async def get(self, key: str) -> Stored:
        found: Stored = await self._ask(Ask("get", (key,)))
        return found

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        return bytes(await self._ask(Ask("get_range", (key, start, end))))

    async def folders(self, prefix: str) -> list[str]:
        return list(await self._ask(Ask("folders", (prefix,))))

    async def list(self, prefix: str, after: str = "") -> list[Entry]:
        found: list[Entry] = await self._ask(Ask("list", (prefix, after)))
        return found

    async def delete(self, *keys: str) -> None:
        for key in keys:
            await self._ask(Ask("delete", (key,)))

    async def put_part(self, key: str, data: bytearray | bytes, *, limit_s: float) -> None:
        await self.put(key, bytes(data))

    async def get_part(self, key: str, size: int, take: Take) -> None:
        data = (await self.get(key)).data
        if len(data) != size:
            raise StoreError(f"memory: {key} has {len(data)} bytes, {size} were expected.")
        take(memoryview(data[: size // 2]))
        take(memoryview(data[size // 2 :]))

    async def put_file(self, key: str, path: Path, *, sent: Callable[[int], None] | None = None) -> None:
        data = path.read_bytes()
        await self.put(key, data)
        if sent:
            sent(len(data))

    async def get_file(self, key: str, path: Path, size: int) -> None:
        data = (await self.get(key)).data
        if len(data) != size:
            raise StoreError(f"memory: {key} has {len(data)} bytes, {size} were expected.")
        path.write_bytes(data)

    async def close(self) -> None:
        return

    async def _ask(self, ask: Ask) -> Any:
        self.asked.append(ask)
        fate = self.fault(ask) if self.fault else "ok"
        if fate == "crash before":
            raise Crash
        if fate in ("late", "crash, late", "twice"):
            self.network.append(ask)
        if fate in ("lost reply", "crash after"):
            self._effect(ask)
        if fate.startswith("crash"):
            raise Crash
        if fate not in ("ok", "twice"):
            raise Unanswered(f"memory: no answer for {ask.key}.")
        return self.memory.perform(ask)

    def _effect(self, ask: Ask) -> None:
        """Perform a request to whose answer nobody listens."""
        try:
            self.memory.perform(ask)
        except StoreError:
            return


def fate_of(op: str, fate: Fate, *, key: str = "", times: int = 1) -> Callable[[Ask], Fate]:
    """A fault for the first ``times`` requests of one kind whose key contains ``key``."""
    left = times

    def fault(ask: Ask) -> Fate:
        nonlocal left
        if ask.op == op and key in ask.key and left:
            left -= 1
            return fate
        return "ok"

    return fault


def _etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
