"""The supervisor of a launch: detached, one for each launch, told what to do through ``attach``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from vl_agent import head as heads
from vl_agent.store import Store

from tests.agent.box import AGENT, Box
from tests.agent.protected import head_of, is_alive, kinds, one, stored_events, train, until, weights_of
from tests.agent.train import weights_after

MakeBox = Callable[..., Box]


async def test_a_launch_is_prepared_started_and_runs_to_its_end(box: MakeBox, store: Store, tmp_path: Path) -> None:
    here = box()
    await here.submit(train("--steps", 20, "--helper"))
    assert here.supervise()["already"] is False
    async with here.attach() as at:
        await here.start(at)
        await at.event("ended", state="finished")
        steps = [event.fields for event in at.journal() if event.kind == "step"]
        assert [(s["step"], s["loss"], s["total"]) for s in steps] == [(n, 1 / n, 20) for n in range(1, 21)]
        order = kinds(at.journal(), "claimed", "restored", "started", "exited", "ended")
        assert order == ["claimed", "restored", "started", "exited", "ended"]
        await until(lambda: b"saved 20" in at.streams[1, "log"])
        assert (await at.phase("ended")).durable_step == 20
    head = await head_of(store, "char")
    assert (head.state, head.epoch, head.launch) == ("finished", 1, 1)
    assert await weights_of(store, "char", tmp_path) == (20, weights_after(20))
    assert [e.line() for e in await stored_events(store, "char", 1)] == [e.line() for e in at.journal()]


async def test_a_second_supervisor_of_one_launch_finds_the_first(box: MakeBox) -> None:
    here = box()
    await here.submit()
    first, second = here.supervise(), here.supervise()
    assert first["already"] is False
    assert (second["already"], second["pid"]) == (True, first["pid"])


async def test_of_two_started_at_once_one_lives(box: MakeBox) -> None:
    here = box()
    await here.submit()
    said = await asyncio.gather(*(asyncio.to_thread(here.supervise) for _ in range(4)))
    assert sorted(word["already"] for word in said) == [False, True, True, True]
    assert all(word["ready"] for word in said)
    assert {word["pid"] for word in said} == {next(word["pid"] for word in said if not word["already"])}


async def test_the_supervisor_outlives_who_started_it_and_every_connection(box: MakeBox, store: Store) -> None:
    here = box()
    await here.submit(train("--wait-at", 12))
    code = "import subprocess, sys, time; subprocess.run(sys.argv[1:], check=True); time.sleep(600)"
    words = ["supervise", "--run", "char", "--launch", "1"]
    caller = subprocess.Popen(
        [sys.executable, "-c", code, *AGENT, *words], env=here.env, start_new_session=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert caller.stdin is not None
    assert caller.stdout is not None
    from vl_agent.protocol import AgentConfig, encode

    caller.stdin.write(encode(AgentConfig("char", "test", 1, store.url)))
    caller.stdin.close()
    pid = json.loads(await asyncio.to_thread(caller.stdout.readline))["pid"]
    here.pids.append(pid)
    os.killpg(caller.pid, signal.SIGKILL)
    caller.wait()
    caller.stdout.close()
    async with here.attach() as at:
        await here.start(at)
        await at.event("started")
    async with here.attach() as at:
        counter = (await at.phase("training")).counter
        await until(lambda: at.beats[-1].counter > counter + 1)
    assert is_alive(pid)
    assert os.getsid(pid) != os.getsid(0)


async def test_two_launches_cannot_both_claim_one_epoch(box: MakeBox, store: Store) -> None:
    first, second = box("box-1"), box("box-2", launch=1)
    await first.submit(train("--wait-at", 12))
    first.supervise()
    second.supervise()
    async with first.attach() as a, second.attach() as b:
        head = await first.start(a)
        await b.phase("prepared")
        reply = await b.command("start", epoch=head.epoch, token=head.holder)
        assert reply["ok"], "the same token may come to two boxes: a provider's double"
        await until(lambda: "ended" in (a.beats[-1].phase, b.beats[-1].phase))
        lost, winner, loser = (b, a, second) if b.beats[-1].phase == "ended" else (a, b, first)
        assert lost.beats[-1].detail.startswith("fenced: the run is at epoch 1")
        await winner.event("durable")
        assert not loser.family()
        assert not (loser.launch_folder / "epoch-1").exists(), "the loser began nothing"


async def test_commands_may_come_twice_and_are_answered(box: MakeBox, store: Store) -> None:
    here = box()
    await here.submit(train("--wait-at", 12))
    here.supervise()
    async with here.attach() as at:
        assert not (await at.command("stop", epoch=1))["ok"], "it holds no epoch"
        head = await here.start(at)
        again = await at.command("start", epoch=head.epoch, token=head.holder)
        assert again == {"ok": True, "detail": "started already"}
        other = await at.command("start", epoch=2, token="x")
        assert other == {"ok": False, "detail": "was given epoch 1 before"}
        await at.event("durable")
        assert not (await at.command("stop", epoch=7, why="x"))["ok"]
        assert not (await at.command("sing", epoch=1))["ok"]
        assert not (await at.command("end"))["ok"], "what trains is stopped, not ended"
        assert (await at.command("stop", epoch=1, why="by a person"))["ok"]
        assert (await at.command("stop", epoch=1, why="by a person"))["ok"]
        assert (await at.event("ended")).fields["state"] == "stopped"
    assert kinds(at.journal(), "stopping") == ["stopping"]
    head = await head_of(store, "char")
    assert (head.state, head.detail.partition(":")[0]) == ("released", "stopped")


async def test_a_launch_that_is_not_needed_ends_and_does_not_come_back(box: MakeBox) -> None:
    here = box()
    await here.submit()
    pid = here.supervise()["pid"]
    async with here.attach() as at:
        await at.phase("prepared")
        assert (await at.command("end"))["ok"]
        assert (await at.phase("ended")).detail == "was not needed"
        await until(lambda: not is_alive(pid), "its process ends")
    assert here.supervise()["already"] is True
    assert not is_alive(pid)


async def test_a_launch_whose_setup_goes_on_ends_when_it_is_told_to(box: MakeBox) -> None:
    here = box()
    await here.submit(setup="echo $$ > pid; sleep 600")
    here.supervise()
    async with here.attach() as at:
        await until(lambda: (here.work / "pid").exists())
        assert (await at.command("end"))["ok"]
        assert (await at.phase("ended")).detail == "was not needed"
    pid = int((here.work / "pid").read_text())
    await until(lambda: not is_alive(pid))


async def test_a_killed_supervisor_is_started_in_place_and_loses_nothing(
    box: MakeBox, store: Store, tmp_path: Path
) -> None:
    here = box()
    await here.submit(train("--steps", 20, "--wait-at", 12))
    pid = here.supervise()["pid"]
    async with here.attach() as at:
        await here.start(at)
        await at.event("durable", step=10)
        await at.phase("training")  # the beat in its file: another "prepared" is the next supervisor's
        trained = here.family()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not is_alive(pid))
        assert all(is_alive(one) for one in trained)
        before = len(at.beats)
        assert here.supervise()["already"] is False
        (here.work / "go").touch()
        await until(lambda: "prepared" in [beat.phase for beat in at.beats[before:]])
        assert not any(is_alive(one) for one in trained), "before anything else"
        head = await heads.start(store, "char", launch=1, generation=1, expect_epoch=1)
        assert (await at.command("start", epoch=2, token=head.holder))["ok"]
        await until(lambda: at.epochs == [1, 2])
        await at.event("ended", state="finished")
        assert one(at.journal(2), "restored")["step"] == 10
        assert one(at.journal(2), "claimed")["launch"] == 1
    assert await weights_of(store, "char", tmp_path) == (20, weights_after(20))
    assert [e.line() for e in await stored_events(store, "char", 1)] == [e.line() for e in at.journal(1)]
