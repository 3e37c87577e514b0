"""The head protocol's own pauses cost no time here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from vl_agent import head

from tests.head.histories import no_sleep


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "asyncio", SimpleNamespace(sleep=no_sleep))
