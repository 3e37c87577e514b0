"""A full disk and a small one: said in words, nothing durable lost, and the training goes on while it can."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vl_agent import training as trainings
from vl_agent.journal import Journal
from vl_agent.protocol import parse_event
from vl_agent.store import Store

from tests.agent.held import Held, torch_like
from tests.agent.protected import Protected, durable_step, head_of, train, until, weights_of
from tests.agent.train import weights_after
from tests.store.memory import MemoryStore

FULL = Path("/dev/full")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"a small file system can't be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def filled(folder: Path) -> Path:
    """Use up all the room there; returns what to delete to have it back."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            return filler
    raise AssertionError("it is never full")


async def test_a_training_that_fails_of_a_full_disk_is_no_user_error(small_disk: Path) -> None:
    held = Held(small_disk)
    await held.begin("echo failed >&2; exit 1")
    attempt = held.attempt()
    filled(small_disk)
    ended = await asyncio.wait_for(attempt.run("box-1"), 30)
    assert ended.cause == "host_fault"
    assert "No space left" in ended.detail or "is full" in ended.detail
    assert held.head_in_store().state == "released", "another box may do better"


async def test_what_the_journal_could_not_write_follows_when_there_is_room(small_disk: Path) -> None:
    store = MemoryStore()
    journal = Journal(small_disk / "journal.jsonl", "char", 1, store)
    journal.tell("before")
    filler = filled(small_disk)
    for number in range(200):
        journal.tell("step", step=number, loss="x" * 100)
    filler.unlink()
    journal.tell("after")
    await journal.ship()
    events = [parse_event(line) for line in (small_disk / "journal.jsonl").read_bytes().splitlines()]
    assert [event.kind for event in events] == ["before", *["step"] * 200, "after"]
    (shipped,) = [body for key, body in store.memory.objects.items() if "journal" in key]
    assert shipped == (small_disk / "journal.jsonl").read_bytes()
    journal.close()


async def test_a_restore_into_a_small_disk_throws_no_checkpoint_away(small_disk: Path, tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin()
    await held.keep(3)
    await held.keep(7, {"step-7.pt": os.urandom(2 << 20)})
    held.checkpoints = small_disk / "ckpt"
    with pytest.raises(OSError, match="No space left"):
        await held.restore(small_disk / "cache")
    assert held.told.of("bad_checkpoint") == []
    assert (await held.now()).checkpoint.step == 7  # type: ignore[union-attr]


async def test_a_save_is_brought_from_a_disk_that_is_full(small_disk: Path) -> None:
    """A link needs no room."""
    held = Held(small_disk)
    await held.begin()
    pipeline = held.pipeline()
    held.save(5)
    (held.work / ".ckpt.vl" / "hold").mkdir(parents=True)
    filled(small_disk)
    await held.brought(pipeline)
    assert held.head_in_store().checkpoint.step == 5  # type: ignore[union-attr]
    held.checked()


async def test_a_store_on_a_full_disk_is_at_risk_and_durable_when_there_is_room(
    small_disk: Path, tmp_path: Path, protect: Callable[..., Protected]
) -> None:
    from tests.agent.protected import store_at

    url = f"file://{small_disk}/store"
    desk = protect(url=url)
    where = desk.start(train("--steps", 20, "--wait-at", 12, "--padding", 100_000))
    store: Store = store_at(url)
    await until(lambda: durable_step(store, "char"))
    filler = filled(small_disk)
    (where / "go").touch()
    beat = desk.launch / "beat.json"
    await until(lambda: "disk is full" in json.loads(beat.read_bytes())["store_error"], "at risk, and why")
    filler.unlink()
    assert await desk.exit() == 0
    assert await weights_of(store, "char", tmp_path) == (20, weights_after(20))
    assert (await head_of(store, "char")).state == "finished"


def test_the_words_of_a_full_disk_are_known() -> None:
    with pytest.raises(OSError) as failed, FULL.open("wb", buffering=0) as file:
        file.write(torch_like("x"))
    assert trainings.classify(1, "", f"OSError: {failed.value}").cause == "host_fault"
