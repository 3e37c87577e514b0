from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vl_agent.store import Store

from tests.agent.box import Box
from tests.agent.protected import Protected, store_at


@pytest.fixture(autouse=True)
def impatient_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that failed is asked for again soon."""
    for module in ("upload", "download"):
        monkeypatch.setattr(f"vl_agent.checkpoints.{module}.FIRST_PAUSE_S", 0.01)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store in a folder."""
    return f"file://{tmp_path}/store"


@pytest.fixture
def store(url: str) -> Store:
    return store_at(url)


@pytest.fixture
def protect(tmp_path: Path, url: str) -> Iterator[Callable[..., Protected]]:
    """Makes machines under each of which ``vl-agent run`` can be started; all of it ends with the test."""
    made: list[Protected] = []

    def make(name: str = "desk", **options: object) -> Protected:
        folder = tmp_path / name
        folder.mkdir()
        made.append(Protected(folder, str(options.pop("url", url)), **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def box(tmp_path: Path, store: Store) -> Iterator[Callable[..., Box]]:
    """Makes boxes, each with a home of its own; what runs on them ends with the test."""
    made: list[Box] = []

    def make(name: str = "box-1", **options: object) -> Box:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made.append(Box(folder, options.pop("store", store), **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()
