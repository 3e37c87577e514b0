"""Runs as the store holds them: names, specs, heads, launches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from vl_agent import protocol
from vl_agent.protocol import Beat, Head, LaunchEnd, LaunchRecord, ProtocolError, RunSpec, decode
from vl_agent.store import NotFound, Store

READS_AT_ONCE = 16


@dataclass(frozen=True)
class Launched:
    """One launch: the box asked for and, once given up, why."""

    record: LaunchRecord
    end: LaunchEnd | None


async def names(store: Store) -> list[str]:
    """Every run of the store, sorted; folders that can't be a run's are left out."""
    return [name for name in await store.folders(protocol.RUNS_PREFIX) if protocol.RUN_NAME.fullmatch(name)]


async def spec(store: Store, run: str) -> RunSpec:
    """Raises ``NotFound`` (no such run), ``ProtocolError``."""
    return decode(RunSpec, (await store.get(protocol.spec_key(run))).data)


async def head(store: Store, run: str) -> Head:
    """Raises ``NotFound``, ``ProtocolError``."""
    return decode(Head, (await store.get(protocol.head_key(run))).data)


async def beat(store: Store, run: str, epoch: int) -> Beat | None:
    """The agent's heartbeat as the store has it; None before the first."""
    try:
        return decode(Beat, (await store.get(protocol.beat_key(run, epoch))).data)
    except NotFound:
        return None


async def launches(store: Store, run: str) -> list[Launched]:
    """Every launch of the run, by number. Raises ``ProtocolError`` for a record that can't be read: a launch that is
    not understood must not be forgotten."""
    entries = await store.list(protocol.launches_prefix(run))
    bodies = await read_all(store, [entry.key for entry in entries])
    records: dict[int, LaunchRecord] = {}
    ends: dict[int, LaunchEnd] = {}
    for key, body in bodies.items():
        try:
            if key.endswith(".end.json"):
                end = decode(LaunchEnd, body)
                ends[end.number] = end
            elif key.endswith(".json"):
                record = decode(LaunchRecord, body)
                records[record.number] = record
        except ProtocolError as error:
            raise ProtocolError(f"{store.url}: {key}: {error}") from None
    return [Launched(records[number], ends.get(number)) for number in sorted(records)]


async def read_all(store: Store, keys: Sequence[str]) -> dict[str, bytes]:
    """The content of each key that is there, a bounded number at once."""
    at_once = asyncio.Semaphore(READS_AT_ONCE)

    async def read(key: str) -> tuple[str, bytes | None]:
        async with at_once:
            try:
                return key, (await store.get(key)).data
            except NotFound:
                return key, None

    pairs = await asyncio.gather(*(read(key) for key in keys))
    return {key: body for key, body in pairs if body is not None}
