"""TMPDIR for the training: on the checkpoints' file system, where that is safe and no person has chosen otherwise."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from vl_agent.checkpoints import temporary

from tests.agent.held import Held

ELSEWHERE = Path("/dev/shm")


@pytest.fixture(autouse=True)
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Path]:
    """A checkpoint folder on another file system than the temporary folder."""
    if not ELSEWHERE.is_dir() or ELSEWHERE.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("one file system here")
    made = Path(tempfile.mkdtemp(dir=ELSEWHERE))
    (made / "ckpt").mkdir()
    yield made / "ckpt"
    shutil.rmtree(made)


def test_on_one_file_system_the_usual_folder_is_as_good(tmp_path: Path) -> None:
    assert temporary.better(tmp_path, {}) is None


def test_on_another_it_is_beside_the_checkpoints_empty_of_what_killed_saves_left(checkpoints: Path) -> None:
    folder = temporary.better(checkpoints, {})
    assert folder is not None
    assert folder.stat().st_dev == checkpoints.stat().st_dev
    (folder / "tmpabcdefgh").write_bytes(b"half a checkpoint")
    (folder / "torchinductor_me").mkdir()
    assert temporary.better(checkpoints, {}) == folder
    assert [path.name for path in folder.iterdir()] == ["torchinductor_me"], "caches stay"


@pytest.mark.parametrize("name", ["TMPDIR", "TEMP", "TMP"])
def test_a_persons_choice_stays(checkpoints: Path, name: str) -> None:
    assert temporary.better(checkpoints, {name: "/somewhere"}) is None


def test_where_sockets_would_not_fit_it_stays_as_it_is(checkpoints: Path) -> None:
    deep = checkpoints / ("x" * 80) / "ckpt"
    deep.mkdir(parents=True)
    assert temporary.better(deep, {}) is None


async def test_the_training_gets_it_and_the_journal_says_it(
    tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    held = Held(tmp_path)
    held.work.mkdir(parents=True)
    (held.work / "ckpt").symlink_to(checkpoints)
    await held.begin('printf "%s" "$TMPDIR" > told')
    attempt = held.attempt()
    await attempt.run("box-1")
    folder = (held.work / "told").read_text()
    assert os.stat(folder).st_dev == checkpoints.stat().st_dev
    journal = (held.folder / "epoch-1" / "journal.jsonl").read_text().splitlines()
    said = [line for line in journal if '"kind":"environment"' in line and '"TMPDIR"' in line]
    assert len(said) == 1
    assert folder in said[0]
