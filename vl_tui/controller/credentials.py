"""What each run's box reaches the store with: minted when its supervisor is started, and again before it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from vl_tui.config import FleetConfig
from vl_tui.ssh.connection import Unreachable
from vl_tui.store.scoped import NotMinted, Scoped, scoped

RENEW_AT = 2 / 3
"""Of its life: the last third is left for a store or a link that fails."""


class Credentials:
    """One fleet's. ``say`` gets each warning once."""

    def __init__(self, fleet: FleetConfig, options: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._fleet, self._options, self._say = fleet, dict(options), say
        self._found: dict[str, tuple[Scoped, float]] = {}
        """By run: the newest, and when it is renewed (unix seconds)."""
        self._asking: dict[str, asyncio.Lock] = {}
        self._warned: set[str] = set()

    async def of(self, run: str) -> Scoped:
        """Fresh for at least a third of their life. Raises ``Unreachable`` when the store issues none though a role is
        named for it: a person who named one does not want the fleet's keys on a box."""
        async with self._asking.setdefault(run, asyncio.Lock()):
            known = self._found.get(run)
            if known is not None and time.time() < known[1]:
                return known[0]
            began = time.time()
            try:
                found = await scoped(self._fleet, self._options, run)
            except NotMinted as why:
                if known is not None and known[0].expires_at is not None and known[0].expires_at > began:
                    return known[0]
                raise Unreachable(f"{run}: no credentials for its box: {why}") from None
            self._warn(found)
            end = found.expires_at
            renew = float("inf") if end is None else began + (end - began) * RENEW_AT
            self._found[run] = found, renew
            return found

    def _warn(self, found: Scoped) -> None:
        if found.warning and found.warning not in self._warned:
            self._warned.add(found.warning)
            self._say(found.warning)
