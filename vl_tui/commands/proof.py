"""What ``submit`` proves first: that the store keeps its word, and that the boxes let us in with nobody there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from vl_agent.store import Store, prove

from vl_tui.config import FleetConfig
from vl_tui.providers import registry


async def prove_store(fleet: FleetConfig, store: Store) -> None:
    """Race conditional writes once for each store and machine. Raises ``Unsafe``, ``StoreError``."""
    mark = _mark(fleet)
    if mark.exists():
        return
    await prove(store)
    mark.touch(mode=0o600)


def _mark(fleet: FleetConfig) -> Path:
    named = "\n".join([fleet.store, *sorted(fleet.store_options.values())])
    return fleet.state_dir / f"proved-{hashlib.sha256(named.encode()).hexdigest()[:16]}"


async def prove_boxes(fleet: FleetConfig, say: Callable[[str], None]) -> None:
    """Ask each provider to prove that it works without a person present. Raises ``SshError``, ``ProviderError``."""
    for provider in registry.open_providers(fleet):
        try:
            say(f"{provider.name}: {await provider.check()}")
        finally:
            await provider.close()
