"""A script that tells nothing: its steps, losses and rates are read in what it prints."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from vl_agent.protocol import Event, parse_event

from tests.agent.held import Held
from tests.agent.protected import until

BARS = """
import sys, time
for n in range(1, 41):
    sys.stderr.write(f"\\r{100 * n // 40:3d}%|###  | {n}/40 [00:00<00:00, 99.0it/s]")
    sys.stderr.flush()
    if n % 10 == 0:
        print({"loss": str(4 - n / 40), "grad_norm": "1.5", "learning_rate": "0.001", "epoch": "0.5"})
    time.sleep(0.02)
"""
TOLD = """
import os, time
from vl_agent import control
told = control.Progress(os.environ["VL_CONTROL"])
for n in range(1, 21):
    print(f"step={n} loss={1 / n:.3f}", flush=True)
    told.tell(step=n, loss=1 / n, total=20)
    time.sleep(0.05)
"""


async def ran(folder: Path, script: str, **fields: Any) -> tuple[Held, list[Event]]:
    held = Held(folder)
    (folder / "script.py").write_text(script)
    await held.begin(f"{sys.executable} {folder / 'script.py'}", **fields)
    ended = await asyncio.wait_for(held.attempt().run("box-1"), 60)
    assert ended.cause == "finished", ended
    lines = (folder / "epoch-1" / "journal.jsonl").read_bytes().splitlines()
    return held, [parse_event(line) for line in lines]


async def test_steps_of_a_progress_bar_come_into_the_journal_and_say_where_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vl_agent.watchers.LOOK_S", 0.1)
    held, events = await ran(tmp_path, BARS)
    steps = [event.fields for event in events if event.kind == "step"]
    assert steps[-1] == {"step": 40, "loss": 3.0, "total": 40, "source": "log"}
    assert (held.status.step, held.status.total_steps) == (40, 40)
    numbers = [fields["step"] for fields in steps]
    assert numbers == sorted(numbers)


async def test_a_fast_script_does_not_flood_the_journal(tmp_path: Path) -> None:
    script = "for n in range(1, 20001): print(f'step={n} loss=1.5')"
    _, events = await ran(tmp_path, script, total_steps=20_000)
    steps = [event.fields for event in events if event.kind == "step"]
    assert 1 <= len(steps) < 100
    assert (steps[-1]["step"], steps[-1]["total"]) == (20_000, 20_000)


async def test_steps_that_are_told_directly_are_not_read_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vl_agent.watchers.LOOK_S", 0.1)
    _, events = await ran(tmp_path, TOLD)
    steps = [event.fields for event in events if event.kind == "step"]
    direct = [fields for fields in steps if "source" not in fields]
    assert [fields["step"] for fields in direct] == list(range(1, 21))
    first = steps.index(direct[0])
    assert all("source" not in fields for fields in steps[first:])


async def test_metrics_of_script_and_machine_are_journaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vl_agent.watchers.MEASURE_S", 0.1)
    monkeypatch.setattr("vl_agent.watchers.LOOK_S", 0.05)
    script = "import os, time\nprint('step 3/9 loss 1.5 lr 0.25', flush=True)\n"
    script += "while not os.path.exists('go'): time.sleep(0.02)"
    held = Held(tmp_path)
    (tmp_path / "script.py").write_text(script)
    await held.begin(f"{sys.executable} {tmp_path / 'script.py'}")
    running = asyncio.create_task(held.attempt().run("box-1"))
    journal = tmp_path / "epoch-1" / "journal.jsonl"

    def told() -> dict[str, Any]:
        events = [parse_event(line) for line in journal.read_bytes().splitlines()] if journal.exists() else []
        found = [dict(event.fields) for event in events if event.kind == "metrics" and "lr" in event.fields]
        return found[-1] if found else {}

    found = await until(told, "metrics with what the script prints")
    (held.work / "go").touch()
    await asyncio.wait_for(running, 30)
    assert found["lr"] == 0.25
    assert 0 < found["host"]["memory"] <= found["host"]["memory_most"]
    assert found["host"]["disk_free"] > 0
    assert None not in found["host"].values()


async def test_a_watcher_that_fails_is_said_and_hurts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("vl_agent.metrics.host.HostWatch.look", broken)
    _, events = await ran(tmp_path, BARS)
    assert [event for event in events if event.kind == "warning" and "broken" in event.fields["text"]]
    assert [event.fields["step"] for event in events if event.kind == "step"][-1] == 40
