"""What several commands begin with: the fleet's store, open while they work, and a run that must be there."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from vl_agent.protocol import Head, check_name
from vl_agent.store import NotFound, Store

from vl_tui.config import FleetConfig
from vl_tui.failure import Refused
from vl_tui.store import runs
from vl_tui.store.opening import open_fleet_store

T = TypeVar("T")


def with_store(fleet: FleetConfig, work: Callable[[Store], Awaitable[T]]) -> T:
    """Open the fleet's store, do ``work`` on a loop of its own, close the store. Raises ``StoreError``."""
    store = open_fleet_store(fleet)

    async def opened() -> T:
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(opened())


async def head_of(store: Store, run: str) -> Head:
    """The head of a run that a person named. Raises ``Refused`` when there is none, ``ProtocolError`` for no name."""
    check_name(run)
    try:
        return await runs.head(store, run)
    except NotFound:
        known = await runs.names(store)
    close = difflib.get_close_matches(run, known, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else " `vl-tui ls` lists them." if known else " It holds none yet."
    raise Refused(f"no run is called {run!r} in {store.url}.{guess}")
