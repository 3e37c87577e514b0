"""A training that makes no more steps: seen, looked into, said, and ended by policy; one that works is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from vl_agent import evidence
from vl_agent.attempt import Attempt
from vl_agent.protocol import Event, parse_event
from vl_agent.training import Ended

from tests.agent.held import Held
from tests.agent.protected import until

SCRIPT = Path(__file__).with_name("stuck.py")
needs_py_spy = pytest.mark.skipif(
    shutil.which("py-spy", path=str(Path(sys.executable).parent)) is None, reason="py-spy is not installed"
)

QUICK = {
    "standstill.LEAST_S": 1.0, "standstill.FIRST_S": 1.0, "standstill.HUNG_S": 3.0, "standstill.BLIND_HUNG_S": 1e9,
    "hang.TICK_S": 0.1, "hang.AGAIN_S": 0.3, "attempt.STOP_GRACE_S": 0.5, "watchers.LOOK_S": 0.1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in QUICK.items():
        monkeypatch.setattr(f"vl_agent.{name}", seconds)


@pytest.fixture
def no_py_spy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vl_agent.evidence.shutil.which", lambda *_, **__: None)


class Run:
    """One attempt of the stuck training."""

    def __init__(self, held: Held, attempt: Attempt, task: asyncio.Task[Ended]) -> None:
        self.held, self.attempt, self.task = held, attempt, task

    def of(self, kind: str) -> list[dict[str, Any]]:
        lines = self.attempt.log.with_name("journal.jsonl").read_bytes().splitlines()
        events: list[Event] = [parse_event(line) for line in lines]
        return [dict(event.fields) for event in events if event.kind == kind]

    def stages(self) -> list[str]:
        return [fields["stage"] for fields in self.of("hang")]

    async def hang(self, stage: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = await until(
            lambda: [fields for fields in self.of("hang") if fields["stage"] == stage], stage
        )
        return found[-1]

    def go(self) -> None:
        (self.held.work / "go").touch()

    async def ended(self) -> Ended:
        return await asyncio.wait_for(self.task, 60)


Begin = Callable[..., "contextlib.AbstractAsyncContextManager[Run]"]


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    @contextlib.asynccontextmanager
    async def make(*words: str, **fields: Any) -> AsyncIterator[Run]:
        held = Held(tmp_path)
        await held.begin(" ".join([sys.executable, str(SCRIPT), *words]), **fields)
        attempt = held.attempt(TOKEN="secret-token")
        task = asyncio.create_task(attempt.run("box-1"))
        try:
            yield Run(held, attempt, task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return make


@needs_py_spy
@pytest.mark.parametrize("how", ["stuck_asleep", "stuck_in_c"])
async def test_a_training_that_stands_still_is_ended_with_its_evidence(begin: Begin, how: str) -> None:
    async with begin(how) as run:
        suspected = await run.hang("suspected")
        assert suspected["tool"] == "py-spy"
        assert how in suspected["stacks"]
        assert suspected["log"][-1] == "step 30 of ***", "the last lines, without secrets"
        await until(lambda: "no step for" in run.held.status.at_risk)
        confirmed = await run.hang("confirmed")
        assert how in confirmed["where"], confirmed["where"]
        assert confirmed["silent_s"] >= 3.0
        ended = await run.ended()
    assert ended.cause == "hang"
    assert how in ended.detail
    head = await run.held.now()
    assert (head.state, head.detail.split(":")[0]) == ("released", "hang")
    assert {fields["reason"] for fields in run.of("at_risk")} == {"hang"}


@needs_py_spy
async def test_a_training_that_works_without_a_word_is_suspected_and_left_alone(begin: Begin) -> None:
    async with begin("works_silently") as run:
        await run.hang("suspected")
        began = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() - began > 4)  # past the time that a still one has
        assert "confirmed" not in run.stages()
        run.go()
        assert (await run.ended()).cause == "finished"
    assert run.stages()[-1] == "over"
    assert run.of("not_at_risk")
    assert run.held.status.at_risk == ""


@pytest.mark.parametrize("how", ["saves_slowly", "evaluates"])
async def test_a_save_and_an_evaluation_are_not_even_suspected(
    begin: Begin, how: str, no_py_spy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vl_agent.standstill.LEAST_S", 2.0)
    monkeypatch.setattr("vl_agent.standstill.FIRST_S", 2.0)
    async with begin(how) as run:
        await until(lambda: run.held.status.step == 30)
        began = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() - began > 4)
        assert run.stages() == []
        run.go()
        assert (await run.ended()).cause == "finished"


async def test_without_py_spy_a_training_that_sleeps_is_known_by_its_idle_processor(
    begin: Begin, no_py_spy: None
) -> None:
    async with begin("stuck_asleep", "dumps") as run:
        ended = await run.ended()
        confirmed = await run.hang("confirmed")
    assert ended.cause == "hang"
    assert confirmed["tool"] == "proc"
    assert "MainThread" not in confirmed["stacks"]
    assert "state S" in confirmed["stacks"]
    assert any("stuck_asleep" in line for line in confirmed["log"]), "faulthandler was there, and was asked"


async def test_without_py_spy_one_that_works_is_not_taken_for_hung(begin: Begin, no_py_spy: None) -> None:
    async with begin("stuck_in_c") as run:
        await run.hang("suspected")
        began = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() - began > 5)
        assert "confirmed" not in run.stages(), "it can't be told from an evaluation"


async def test_a_hang_that_is_to_be_reported_ends_nothing(begin: Begin, no_py_spy: None) -> None:
    async with begin("stuck_asleep", "dumps", on_hang="report") as run:
        confirmed = await run.hang("confirmed")
        assert run.attempt.pid
        assert "no step for" in run.held.status.at_risk
        assert not any("stuck_asleep" in line for line in confirmed["log"]), "no signal is sent to what shall live"
        run.attempt.stop("stopped by me", save=False)
        assert (await run.ended()).cause == "stopped"


async def test_a_training_that_is_paused_is_no_hang(begin: Begin, no_py_spy: None) -> None:
    async with begin("stuck_asleep") as run:
        await until(lambda: run.held.status.step == 30)
        for pid in run.attempt._training.members():
            os.kill(pid, signal.SIGSTOP)
        began = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() - began > 4)
        assert "confirmed" not in run.stages()
        for pid in run.attempt._training.members():
            os.kill(pid, signal.SIGCONT)


async def test_a_script_without_steps_is_not_watched_and_that_is_said_once(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vl_agent.hang.STEPLESS_S", 0.2)
    async with begin("works_silently", "silent") as run:
        await until(lambda: [fields for fields in run.of("warning") if "no steps" in fields["text"]])
        await until(lambda: "step 30" in run.attempt.log.read_text())
        run.go()
        assert (await run.ended()).cause == "finished"
    assert len([fields for fields in run.of("warning") if "no steps" in fields["text"]]) == 1
    assert run.stages() == []


# -- the looks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Any:
    made: list[subprocess.Popen[bytes]] = []

    def start(code: str = "", env: dict[str, str] | None = None) -> int:
        words = [sys.executable, "-c", f"import time\n{code}\nprint('ready', flush=True)\ntime.sleep(600)"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, **(env or {})})
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        made.append(process)
        return process.pid

    yield start
    for process in made:
        process.kill()
        process.wait()


REGISTERED = "import faulthandler, signal; faulthandler.register(signal.SIGUSR1)"


@pytest.mark.parametrize(
    ("code", "env", "asked"),
    [("", {}, False), (REGISTERED, {}, True), (REGISTERED, {"SLURM_JOB_ID": "7"}, False)],
    ids=["it would die of it", "registered", "Slurm's own signal"],
)
async def test_a_signal_is_sent_only_where_it_can_do_no_harm(
    sleeper: Callable[..., int], code: str, env: dict[str, str], asked: bool
) -> None:
    pid = sleeper(code, env)
    assert evidence.ask_for_stacks([pid]) == ([pid] if asked else [])
    await asyncio.sleep(0.05)
    assert evidence.state_of(pid) in "SR"


async def test_a_tool_that_hangs_is_not_waited_for(
    sleeper: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "py-spy"
    tool.write_text("#!/bin/sh\nexec sleep 600\n")
    tool.chmod(0o755)
    monkeypatch.setattr("vl_agent.evidence.shutil.which", lambda *_, **__: str(tool))
    monkeypatch.setattr("vl_agent.evidence.LIMIT_S", 0.3)
    look = await asyncio.wait_for(evidence.look([sleeper()]), 30)
    assert look.tool == "proc"
    assert "state S" in look.stacks


async def test_a_look_at_what_is_gone_is_empty(sleeper: Callable[..., int]) -> None:
    look = await evidence.look([2**22 + 1])
    assert (look.frames, look.where, look.cpu_s) == ((), "", 0.0)


async def test_what_takes_too_long_is_left_behind() -> None:
    held = asyncio.Event()
    import threading

    release = threading.Event()
    assert await evidence.within(lambda: release.wait(20), 0.1) is None
    release.set()
    held.set()


def test_the_main_threads_stack_is_found_in_a_dump() -> None:
    dump = (
        'Process 1: python x.py\nPython v3.11\n\nThread 5 (idle): "pin memory"\n    wait (threading.py:1)\n'
        'Thread 1 (active): "MainThread"\n    step (x.py:3)\n    <module> (x.py:9)\n'
    )
    assert evidence.main_thread(dump) == "step (x.py:3)\n<module> (x.py:9)"
