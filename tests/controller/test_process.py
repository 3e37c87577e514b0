"""The controller as a real process: started detached, found by lock and socket, ended by itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vl_agent import head as heads
from vl_agent.protocol import LEASE_KEY, CheckpointPolicy, RunSpec
from vl_agent.store import open_store

from vl_tui.config import FleetConfig, load_fleet
from vl_tui.controller import process, serve

pytestmark = pytest.mark.timeout(60)


def until(true: Callable[[], bool], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FleetConfig]:
    for variable in ("RUNTIME_DIR", "STATE_HOME", "CACHE_HOME", "CONFIG_HOME"):
        home = tmp_path / variable.lower()
        home.mkdir(mode=0o700)
        monkeypatch.setenv(f"XDG_{variable}", str(home))
    monkeypatch.setenv("VL_CONTROLLER_IDLE_S", "60")
    (tmp_path / "store").mkdir()
    path = tmp_path / "fleet.yaml"
    path.write_text(
        f"fleet: proc\nstore: file://{tmp_path}/store\n"
        f"providers: [{{kind: local, name: nowhere, socket: {tmp_path}/nowhere.sock}}]\n"
    )
    config = load_fleet(path)
    yield config
    left = process.pid(config)
    if left is not None:
        os.kill(left, signal.SIGKILL)
        until(lambda: process.pid(config) is None)


def generation(fleet: FleetConfig) -> int:
    path = Path(fleet.store.removeprefix("file://")) / LEASE_KEY
    return int(json.loads(path.read_text())["generation"]) if path.exists() else 0


def pid(fleet: FleetConfig) -> int:
    found = process.pid(fleet)
    assert found is not None
    return found


def test_it_is_started_once_wakes_up_when_told_and_ends_on_sigterm(fleet: FleetConfig) -> None:
    process.ensure_controller(fleet.path)
    first = pid(fleet)
    assert os.getsid(first) != os.getsid(0), "it would die with this terminal"
    process.ensure_controller(fleet.path)
    assert pid(fleet) == first
    assert process.wake(fleet.fleet)
    os.kill(first, signal.SIGTERM)
    until(lambda: process.pid(fleet) is None)
    assert not process.wake(fleet.fleet)


def test_after_a_kill_9_another_takes_over_at_once_with_a_higher_generation(fleet: FleetConfig) -> None:
    process.ensure_controller(fleet.path)
    until(lambda: generation(fleet) == 1)
    os.kill(pid(fleet), signal.SIGKILL)
    until(lambda: process.pid(fleet) is None)
    began = time.monotonic()
    process.ensure_controller(fleet.path)
    until(lambda: generation(fleet) == 2)
    assert time.monotonic() - began < 10


def test_another_lock_of_the_same_name_proves_nobody_dead(fleet: FleetConfig) -> None:
    """A runtime folder is removed at logout; a detached controller lives on and holds a lock that nobody sees."""
    process.ensure_controller(fleet.path)
    until(lambda: generation(fleet) == 1)
    before, old = process.lock_name(fleet), pid(fleet)
    held = fleet.runtime_dir.rename(fleet.runtime_dir.with_name("removed"))
    try:
        process.ensure_controller(fleet.path)
        assert process.lock_name(fleet) != before
        until(lambda: "is kept by" in (fleet.runtime_dir / f"{fleet.fleet}.log").read_text())
        assert generation(fleet) == 1, "it waits until it has watched the lease for its whole term"
    finally:
        assert held.exists()
        os.kill(old, signal.SIGKILL)


def test_another_fleets_run_does_not_hide_that_one_of_ours_is_left(fleet: FleetConfig) -> None:
    async def left() -> bool:
        store = open_store(fleet.store)
        await heads.submit(store, RunSpec("a-first", "other", "true", CheckpointPolicy("ckpt")))
        assert not await serve.anything_left(fleet)
        await heads.submit(store, RunSpec("b-second", fleet.fleet, "true", CheckpointPolicy("ckpt")))
        return await serve.anything_left(fleet)

    assert asyncio.run(left())


def test_with_nothing_left_to_keep_it_ends_by_itself(fleet: FleetConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL_CONTROLLER_IDLE_S", "0.2")
    process.ensure_controller(fleet.path)
    until(lambda: process.pid(fleet) is None)


@pytest.mark.parametrize(("ours", "left"), [("proc", True), ("another", False)])
def test_a_run_beside_one_that_is_not_of_the_fleet_is_something_left(fleet: FleetConfig, ours: str, left: bool) -> None:
    async def submit() -> None:
        store = open_store(fleet.store)
        for name, of in (("a-desk-run", ""), ("mine", ours)):
            await heads.submit(store, RunSpec(name, of, "true", CheckpointPolicy("ckpt")))

    asyncio.run(submit())
    assert asyncio.run(serve.anything_left(fleet)) is left


def test_it_ends_with_whoever_holds_its_leash(fleet: FleetConfig) -> None:
    held, leash = os.pipe()
    process.ensure_controller(fleet.path, held)
    os.close(held)
    assert process.pid(fleet) is not None
    os.close(leash)
    until(lambda: process.pid(fleet) is None)


def test_what_keeps_it_from_starting_is_told_in_words(fleet: FleetConfig, tmp_path: Path) -> None:
    (tmp_path / "store").rmdir()
    (tmp_path / "store").write_text("a file where the store should be")
    with pytest.raises(process.ControllerFailed, match="store"):
        process.ensure_controller(fleet.path)


def test_what_it_writes_down_is_for_this_user_only(fleet: FleetConfig) -> None:
    process.ensure_controller(fleet.path)
    files = [fleet.runtime_dir / f"{fleet.fleet}.{kind}" for kind in ("log", "lock", "sock")]
    files.append(fleet.state_dir / "id_ed25519")
    until(lambda: all(file.exists() for file in files))
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def test_a_second_one_in_the_foreground_says_who_keeps_the_fleet(
    fleet: FleetConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    process.ensure_controller(fleet.path)
    assert process.main(fleet, None) == 2
    assert str(pid(fleet)) in capsys.readouterr().err
