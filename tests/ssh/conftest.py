from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from vl_agent.store import open_store

from tests.fixtures.sshd import Relay, Sshd
from tests.ssh.box import Box


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One operator's cache for all tests: a bundle is made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
async def box(sshd: Sshd, relay: Relay, tmp_path: Path, cache: Path) -> AsyncIterator[Box]:
    """A box with a real sshd, reached through a relay; what was started on it ends with the test."""
    one = Box(sshd, relay, open_store(f"file://{tmp_path}/store"), cache, tmp_path)
    yield one
    await one.close()


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel is given up after 2.5 s without a beat instead of 10."""
    monkeypatch.setattr("vl_tui.ssh.link.SILENCE_S", 2.5)
