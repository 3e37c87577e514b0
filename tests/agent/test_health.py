"""What is wrong with a box is said in words, once when it turns, and acted on only where it must be."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vl_agent import health
from vl_agent.health import Durables, Health, Trouble, of_clock, of_disk, of_memory, skew, too_small
from vl_agent.metrics.host import Host
from vl_agent.protocol import beat_key, parse_event
from vl_agent.store import Entry, Store
from vl_agent.watchers import Watchers

from tests.agent.held import RUN, Held, Told
from tests.agent.protected import until
from tests.metrics.nvml import LOST, Card, Nvml
from tests.store.memory import MemoryStore

GIB = 1 << 30


def host(**figures: Any) -> Host:
    return Host(**{**dict.fromkeys(Host.__dataclass_fields__), **figures})


# -- judgements ------------------------------------------------------------------------------------------------------


def test_a_trouble_is_told_when_it_begins_grows_worse_and_ends() -> None:
    told = Told()
    well = Health(told.tell)
    for found in ([], ["warn"], ["warn"], ["fatal"], [], []):
        well.now("gpu", [Trouble("gpu", severity, "a fault", "GPU-1") for severity in found])  # type: ignore[arg-type]
        well.now("disk", [])
    assert [(fields["severity"], fields["subject"]) for fields in told.of("health")] == [
        ("warn", "GPU-1"), ("fatal", "GPU-1"), ("ok", "GPU-1"),
    ]  # fmt: skip
    assert told.of("health")[-1]["words"] == "no longer: a fault"


def test_a_disk_that_will_be_full_soon_is_said_with_the_time_left() -> None:
    (found,) = of_disk(host(disk_free=10 * GIB, disk_rate=GIB / 60), "ckpt", said=False)
    assert found.words == "the disk of ckpt will be full in 10 min: 10.0 GiB left, 1.0 GiB less each minute"
    assert of_disk(host(disk_free=100 * GIB, disk_rate=GIB / 60), "ckpt", said=False) == []
    assert of_disk(host(disk_free=45 * GIB, disk_rate=GIB / 60), "ckpt", said=False) == []
    assert of_disk(host(disk_free=45 * GIB, disk_rate=GIB / 60), "ckpt", said=True), "not on and off again"
    assert of_disk(host(disk_free=GIB, disk_rate=-1.0), "ckpt", said=False) == []


def test_a_save_that_does_not_fit_is_said_with_what_is_missing() -> None:
    words = too_small(host(disk_free=GIB), 3 * GIB, "ckpt")
    assert words == "the disk of ckpt has 1.0 GiB left, the next save needs 3.0 GiB"
    assert too_small(host(disk_free=4 * GIB), 3 * GIB, "ckpt") == ""
    assert too_small(host(disk_free=GIB), None, "ckpt") == ""


def test_little_memory_is_said() -> None:
    (found,) = of_memory(host(memory=63 * GIB, memory_most=64 * GIB), said=False)
    assert found.words == "memory: 1.0 GiB of 64.0 GiB are left"
    assert of_memory(host(memory=60 * GIB, memory_most=64 * GIB), said=False) == []


@pytest.mark.parametrize(
    ("modified", "ahead"),
    [
        (100.0, 0.0), (103.0, 0.0), (102.4, 0.0),
        (99.0, -0.5),  # whole seconds: 99 may have been 99.999
        (40.0, -59.5), (164.0, 60.0),
    ],
)  # fmt: skip
def test_the_clocks_difference_is_at_least_what_the_round_trip_cannot_explain(modified: float, ahead: float) -> None:
    assert skew(100.5, 104.0, modified) == pytest.approx(ahead)


@pytest.mark.parametrize(
    ("ahead", "words"),
    [(29.0, None), (61.0, "this box's clock is 61 s behind the store's"),
     (-720.0, "this box's clock is 12 min ahead of the store's")],
)  # fmt: skip
def test_a_clock_far_off_is_said_and_which_way(ahead: float, words: str | None) -> None:
    assert [found.words for found in of_clock(ahead)] == ([words] if words else [])


def test_long_without_a_durable_checkpoint_is_judged_by_the_usual_interval() -> None:
    durables = Durables(0.0, None)
    assert durables.late(900.0) == ""
    assert durables.late(901.0) == "no checkpoint has become durable in 15 min of training"
    for at in range(600, 6001, 600):
        durables.durable(float(at))
    assert durables.late(6000.0 + 1800.0) == ""
    assert durables.late(6000.0 + 1801.0) == "no checkpoint has become durable for 30 min, usually every 10 min"
    assert Durables(0.0, 600.0).late(1700.0) == "", "the person's cadence counts from the first"


# -- on a running attempt --------------------------------------------------------------------------------------------


def events(held: Held, kind: str) -> list[dict[str, Any]]:
    lines = (held.folder / "epoch-1" / "journal.jsonl").read_bytes().splitlines()
    return [dict(event.fields) for event in map(parse_event, lines) if event.kind == kind]


WAITS = "until [ -e go ]; do sleep 0.02; done"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four mebibytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"a small file system can't be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_disk_without_room_for_the_next_save_puts_the_run_at_risk_until_there_is(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vl_agent.watchers.MEASURE_S", 0.1)
    held = Held(tmp_path)
    held.work.mkdir()
    (held.work / "ckpt").symlink_to(small_disk)
    await held.begin(WAITS)
    running = asyncio.create_task(held.attempt().run("box-1"))
    await until(lambda: held.status.phase == "training")
    held.save(5, os.urandom(1 << 20).hex())  # two mebibytes: no second one fits
    try:
        await until(lambda: "the next save needs 2.0 MiB" in held.status.at_risk, "at risk")
        assert held.status.store_error == "", "the store is not to blame"
        assert events(held, "at_risk")[0]["reason"] == "disk"
        for path in small_disk.glob("*.pt"):
            path.unlink()
        await until(lambda: held.status.durable_step == 5)
        await until(lambda: held.status.at_risk == "", "no longer at risk")
    finally:
        (held.work / "go").touch()
        await asyncio.wait_for(running, 30)


async def test_a_run_whose_saves_do_not_become_durable_is_at_risk_by_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vl_agent.watchers.MEASURE_S", 0.1)
    monkeypatch.setattr(health, "LATE_S", 0.5)
    held = Held(tmp_path)
    await held.begin(WAITS)
    running = asyncio.create_task(held.attempt().run("box-1"))
    await until(lambda: "no checkpoint has become durable" in held.status.at_risk)
    assert [fields["reason"] for fields in events(held, "at_risk")] == ["checkpoint"]
    (held.work / "go").touch()
    await asyncio.wait_for(running, 30)
    assert held.status.at_risk == "", "a run that has ended is not at risk"


class Skewed(MemoryStore):
    """Its clock is ``ahead_s`` ahead of this machine's."""

    ahead_s = 0.0

    async def put(self, key: str, data: bytes) -> str:
        self.put_at = time.time() + self.ahead_s
        return await super().put(key, data)

    async def list(self, prefix: str, after: str = "") -> list[Entry]:
        return [Entry(e.key, e.size, e.version, float(int(self.put_at))) for e in await super().list(prefix, after)]


async def watched(held: Held, store: Store) -> Watchers:
    """Watchers of an attempt that beats into ``store`` once."""
    attempt = held.attempt()
    held.status.epoch = held.head.epoch
    began = time.time()
    await store.put(beat_key(RUN, held.head.epoch), b"{}")
    held.status.beat_put = began, time.time()
    return attempt._watchers


@pytest.mark.parametrize("ahead_s", [0.0, 100.0, -720.0])
async def test_a_clock_that_is_off_is_told_by_the_time_that_the_beat_bears(tmp_path: Path, ahead_s: float) -> None:
    store = Skewed()
    store.ahead_s = ahead_s
    held = Held(tmp_path, store)
    await held.begin()
    found = await (await watched(held, store))._store_ahead_s()
    assert found is not None
    assert abs(found - ahead_s) <= 1.1


async def test_a_clock_on_which_credentials_end_puts_the_run_at_risk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vl_agent.watchers.CLOCK_FIRST_S", 0.0)
    monkeypatch.setattr("vl_agent.watchers.CLOCK_S", 0.1)
    store = Skewed()
    store.ahead_s = -720.0
    held = Held(tmp_path, store)
    await held.begin()
    watchers = await watched(held, store)
    task = asyncio.create_task(watchers._keep_clock())
    await until(lambda: "12 min ahead of the store's" in held.status.at_risk)
    store.ahead_s = 0.0
    began = time.time()
    await store.put(beat_key(RUN, held.head.epoch), b"{2}")
    held.status.beat_put = began, time.time()
    await until(lambda: held.status.at_risk == "")
    task.cancel()
    assert [fields["severity"] for fields in events(held, "health")] == ["warn", "ok"]


async def test_a_real_store_tells_when_it_was_written_to(tmp_path: Path, store: Store) -> None:
    held = Held(tmp_path)
    await held.begin()
    watchers = await watched(held, store)
    watchers._store = store
    found = await watchers._store_ahead_s()
    assert found is not None
    assert abs(found) <= 1.1


@pytest.mark.parametrize("gpu", ["A100:1", ""], ids=["a run that asked for it", "a run that has nothing to do with it"])
async def test_a_gpu_that_falls_off_the_bus_ends_the_attempts_that_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: str
) -> None:
    monkeypatch.setattr("vl_agent.watchers.MEASURE_S", 0.1)
    monkeypatch.setattr("vl_agent.metrics.gpu.SAMPLE_S", 0.1)
    monkeypatch.setattr("vl_agent.attempt.STOP_GRACE_S", 0.5)
    card = Card("GPU-1234")
    monkeypatch.setattr("vl_agent.metrics.gpu.pynvml", lambda: Nvml(card))
    held = Held(tmp_path)
    await held.begin(WAITS, gpu=gpu)
    running = asyncio.create_task(held.attempt().run("box-1"))
    await until(lambda: [fields for fields in events(held, "metrics") if "gpu" in fields], "figures of the GPU")
    card.error = LOST
    await until(lambda: [f for f in events(held, "health") if f["severity"] == "fatal"], "the fault is told")
    if not gpu:
        (held.work / "go").touch()
        assert (await asyncio.wait_for(running, 30)).cause == "finished"
        return
    ended = await asyncio.wait_for(running, 30)
    assert (ended.cause, "fallen off the bus" in ended.detail) == ("gpu_fault", True)
    assert (await held.now()).detail.startswith("gpu_fault: GPU-1234")


async def test_of_two_gpus_only_the_one_that_the_training_uses_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vl_agent.watchers.MEASURE_S", 0.1)
    monkeypatch.setattr("vl_agent.metrics.gpu.SAMPLE_S", 0.1)
    monkeypatch.setattr("vl_agent.attempt.STOP_GRACE_S", 0.5)
    mine, other = Card("GPU-mine"), Card("GPU-other", pids=[os.getpid()])
    monkeypatch.setattr("vl_agent.metrics.gpu.pynvml", lambda: Nvml(mine, other))
    held = Held(tmp_path)
    await held.begin(WAITS, gpu="A100:1")
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: attempt.pid)
    mine.pids = [attempt.pid]
    await until(lambda: attempt._watchers._used_gpus == {"GPU-mine"})
    other.error = LOST
    await until(lambda: [f for f in events(held, "health") if f["severity"] == "fatal"])
    assert not running.done()
    mine.error = LOST
    assert (await asyncio.wait_for(running, 30)).cause == "gpu_fault"


async def test_a_file_system_that_hangs_hangs_no_watcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vl_agent.watchers.MEASURE_S", 0.1)
    monkeypatch.setattr("vl_agent.metrics.host.disk_of", lambda folder: time.sleep(5) or (1, 1))
    held = Held(tmp_path)
    await held.begin(f"{sys.executable} -c 'import time; time.sleep(1)'")
    assert (await asyncio.wait_for(held.attempt().run("box-1"), 30)).cause == "finished"
    assert events(held, "metrics")
