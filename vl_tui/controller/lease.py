"""The fleet's lease: who keeps it, as a generation that grows with each holder.

``fleet/lease.json`` changes by create and swap only. On one host the file lock beside the socket proves the old holder
dead, so its lease is taken over at once; on another host only after this observer has itself watched the same version
for the whole term. Nobody compares two machines' clocks.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable

from vl_agent.head import NewerController
from vl_agent.protocol import LEASE_KEY, Lease, decode, encode
from vl_agent.store import Exists, Moved, NotFound, Store, Unanswered

from vl_tui.controller.clock import Clock

TERM_S = 20.0
"""A holder that is not seen to renew for so long has lost its lease to whoever watched it."""


class Held:
    """The lease while it is ours. ``renew`` before whatever must not be done by two."""

    def __init__(self, store: Store, lease: Lease, version: str) -> None:
        self._store, self._lease, self._version = store, lease, version

    @property
    def generation(self) -> int:
        return self._lease.generation

    @property
    def owner(self) -> str:
        return self._lease.owner

    async def renew(self) -> None:
        """Swap in the same lease with a new sequence. Raises ``NewerController`` when another holds it, ``StoreError``
        when that can't be found out: then nothing that needs the lease may be done."""
        wanted = dataclasses.replace(self._lease, sequence=self._lease.sequence + 1, nonce=secrets.token_hex(8))
        try:
            self._version = await self._store.swap(LEASE_KEY, encode(wanted), self._version)
            self._lease = wanted
        except (Moved, Unanswered):
            await self._read_back()

    async def _read_back(self) -> None:
        """After a swap that failed or was not answered: ours as long as the generation and the owner are."""
        stored = await self._store.get(LEASE_KEY)
        found = decode(Lease, stored.data)
        if found.generation != self._lease.generation or found.owner != self._lease.owner:
            raise NewerController(found.generation)
        self._lease, self._version = found, stored.version


async def acquire(
    store: Store, *, owner: str, host: str, clock: Clock, term_s: float = TERM_S, say: Callable[[str], None]
) -> Held:
    """Wait until the fleet's lease is ours. ``host`` names the machine's boot and the lock that the caller holds:
    an equal one in the store is a holder that the lock proves dead. A store that does not answer is asked again; what
    else it says is raised."""
    watched, since = "", clock.mono()
    while True:
        try:
            found, version = await _read(store)
            if found is None or found.host == host or (version == watched and clock.mono() - since >= found.term_s):
                held = await _take(store, found, version, owner, host, term_s)
                if held is not None:
                    return held
            elif version != watched:
                say(f"the fleet is kept by {found.owner}: watching its lease for {found.term_s:.0f} s")
                watched, since = version, clock.mono()
        except Unanswered as error:  # the holder could not be seen to renew: its term begins anew
            say(str(error))
            watched = ""
        await clock.sleep(min(1.0, term_s / 10))


async def _read(store: Store) -> tuple[Lease | None, str]:
    """The lease as it stands and its version; None: nobody has ever had it."""
    try:
        stored = await store.get(LEASE_KEY)
    except NotFound:
        return None, ""
    return decode(Lease, stored.data), stored.version


async def _take(store: Store, found: Lease | None, version: str, owner: str, host: str, term_s: float) -> Held | None:
    """None: somebody else was quicker, or nobody knows yet."""
    generation = found.generation + 1 if found else 1
    lease = Lease(generation, owner, host, term_s, 0, secrets.token_hex(8))
    try:
        if found is None:
            version = await store.create(LEASE_KEY, encode(lease))
        else:
            version = await store.swap(LEASE_KEY, encode(lease), version)
    except (Exists, Moved, Unanswered):
        there, version = await _read(store)
        if there != lease:
            return None
    return Held(store, lease, version)
