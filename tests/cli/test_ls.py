"""`vl-tui ls` reads the store alone."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from vl_agent import head, protocol
from vl_agent.protocol import Beat, CheckpointPolicy, Kept, LaunchEnd, LaunchRecord, RunSpec, encode
from vl_agent.store import Store, open_store

from vl_tui import cli

FLEET = "fleet: mine\nstore: file://{store}\nproviders: [{{kind: local}}]\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "fleet.yaml").write_text(FLEET.format(store=tmp_path / "store"))
    return open_store(f"file://{tmp_path / 'store'}")


def ls(tmp_path: Path, *options: str) -> int:
    return cli.main(["--fleet", str(tmp_path / "fleet.yaml"), "ls", *options])


async def submitted(store: Store, name: str) -> None:
    spec = RunSpec(name, "mine", "true", CheckpointPolicy("ckpt"), total_steps=200, submitted_at=time.time() - 7200)
    await head.submit(store, spec)


async def running(store: Store, name: str) -> None:
    await submitted(store, name)
    record = LaunchRecord(
        number=1, provider="nimbus", offer="nimbus/east/cpu:1/spot", place="east", market="spot", gpu="cpu:1",
        usd_hour=2.0, name="x", generation=1, created_at=time.time() - 3600,
    )  # fmt: skip
    await store.create(protocol.launch_key(name, 1), encode(record))
    started = await head.start(store, name, launch=1, generation=1, expect_epoch=0)
    claimed = await head.claim(store, name, epoch=1, token=started.holder)
    kept = Kept(40, 1, protocol.manifest_key(name, 40, 1, 0))
    await head.commit(store, name, epoch=1, holder=claimed.holder, kept=kept, keep=3)
    beat = Beat(counter=9, launch=1, epoch=1, phase="training", step=57, loss=1.5, total_steps=200)
    await store.put(protocol.beat_key(name, 1), encode(beat))


async def make_three(store: Store) -> None:
    await running(store, "char-lm")
    await submitted(store, "waits")
    await submitted(store, "was-stopped")
    await head.end(store, "was-stopped", generation=1, state="stopped", detail="stopped by \x1b[31mme")


def test_the_table_shows_where_a_run_is_and_what_it_cost(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(make_three(store))
    assert ls(tmp_path) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["RUN", "char-lm", "waits", "was-stopped"]
    assert lines[1].split() == ["char-lm", "running", "1", "57/200", "40", "nimbus/east", "spot", "2.00", "2.00", "2h"]
    assert "\x1b" not in out
    assert "no controller has kept this fleet yet" in out


def test_a_run_at_risk_says_so_with_its_age_and_its_reason(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    async def make() -> None:
        await running(store, "char-lm")
        beat = Beat(9, 1, 1, "training", step=57, at_risk="the disk \x1b[31mis full", at_risk_s=720.0)
        await store.put(protocol.beat_key("char-lm", 1), encode(beat))

    asyncio.run(make())
    assert ls(tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("AT RISK 12m: the disk is full")
    assert ls(tmp_path, "--json") == 0
    [row] = json.loads(capsys.readouterr().out)["runs"]
    assert (row["at_risk"], row["at_risk_s"]) == ("the disk is full", 720.0)


def test_json_is_one_document_with_nothing_rounded(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(make_three(store))
    asyncio.run(store.put(protocol.VIEW_KEY, json.dumps({"published_at": time.time() - 30, "runs": 3}).encode()))
    assert ls(tmp_path, "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert 29 < body["view_age_s"] < 40
    found = {row["name"]: row for row in body["runs"]}
    assert (found["char-lm"]["loss"], found["char-lm"]["durable_step"]) == (1.5, 40)
    assert found["was-stopped"]["state"] == "stopped"


def test_a_box_given_up_costs_no_more(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    async def make() -> None:
        await running(store, "a")
        end = LaunchEnd(1, "lost", "", ended_at=time.time() - 1800)
        await store.create(protocol.launch_end_key("a", 1), encode(end))

    asyncio.run(make())
    assert ls(tmp_path, "--json") == 0
    [row] = json.loads(capsys.readouterr().out)["runs"]
    assert row["spent_usd"] == pytest.approx(1.0, abs=0.05)
    assert (row["usd_hour"], row["where"]) == (0.0, "")


def test_a_stopped_run_keeps_its_figures_and_its_box_until_that_is_given_up(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    async def make() -> None:
        await running(store, "a")
        await head.end(store, "a", generation=1, state="stopped", detail="stopped by me")

    asyncio.run(make())
    assert ls(tmp_path, "--json") == 0
    [row] = json.loads(capsys.readouterr().out)["runs"]
    assert (row["state"], row["attempt"], row["step"], row["durable_step"]) == ("stopped", 1, 57, 40)
    assert (row["where"], row["usd_hour"]) == ("nimbus/east spot", 2.0)


def test_one_unreadable_run_hides_no_other(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    async def make() -> None:
        await submitted(store, "good")
        await submitted(store, "bad")
        await store.put(protocol.head_key("bad"), b"{")
        await store.put(protocol.spec_key("half"), b"{}")

    asyncio.run(make())
    assert ls(tmp_path) == 0
    out = capsys.readouterr().out
    assert "unreadable" in out
    assert "unfinished submit" in out
    assert "good" in out


def test_an_empty_fleet_says_what_to_do(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert ls(tmp_path) == 0
    assert "vl-tui submit run.yaml" in capsys.readouterr().out
