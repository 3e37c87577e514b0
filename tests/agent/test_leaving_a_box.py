"""A launched box that will be taken: who hears of it at once, and what its provider is told only once all is safe."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from vl_agent import head as heads
from vl_agent import paths
from vl_agent import supervisor as supervisors
from vl_agent.notices import Notice
from vl_agent.notices.azure import EVENTS
from vl_agent.protocol import AgentConfig, Beat, CheckpointPolicy, Head, RunSpec, decode, head_key
from vl_agent.store import Store
from vl_agent.supervisor import Supervisor

from tests.agent.box import Box
from tests.agent.metadata import Answer, Azure, Ec2, serving
from tests.agent.protected import head_of, train, until

MakeBox = Callable[..., Box]


class Witness(Azure):
    """Azure, which notes what the head said when an event was acknowledged."""

    def __init__(self, head: Path) -> None:
        super().__init__()
        self._head = head
        self.heads: list[Head] = []

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if method == "POST":
            self.heads.append(decode(Head, self._head.read_bytes()))
        return super().answer(method, path, headers, body)


@pytest.mark.parametrize("helper", [True, False], ids=["saves at once", "saves on its own"])
async def test_azure_is_told_to_go_ahead_only_when_all_that_was_saved_is_durable(
    box: MakeBox, store: Store, tmp_path: Path, helper: bool
) -> None:
    service = Witness(tmp_path / "store" / head_key("char"))
    with serving(service):
        here = box(env={"VL_METADATA_ENDPOINT": service.url})
        await here.submit(train("--wait-at", 7, *(["--helper"] if helper else [])))
        here.supervise(notices=("azure",))
        async with here.attach() as at:
            await here.start(at)
            await until(lambda: at.beats[-1].durable_step == 5)
            service.schedule("Preempt", 30 if helper else 6)
            notice = await at.event("notice")
            assert notice.fields["source"] == "azure"
            await at.event("ended")
            await until(lambda: service.started)
    assert service.started == ["602d9444"]
    (head,) = service.heads
    assert head.checkpoint is not None
    assert (head.state, head.checkpoint.step) == ("released", 7 if helper else 5)


async def test_a_store_out_of_reach_keeps_azure_from_being_told_to_go_ahead(
    box: MakeBox, store: Store, tmp_path: Path
) -> None:
    """What is saved and not durable would be lost the sooner."""
    service, folder = Witness(tmp_path / "store" / head_key("char")), tmp_path / "store"
    with serving(service):
        here = box(env={"VL_METADATA_ENDPOINT": service.url})
        await here.submit(train("--helper", "--wait-at", 7))
        here.supervise(notices=("azure",))
        async with here.attach() as at:
            await here.start(at)
            await until(lambda: at.beats[-1].durable_step == 5)
            away = folder.rename(tmp_path / "away")
            folder.write_text("no folder any more")
            service.schedule("Preempt", 30)
            await at.event("saved", step=7)
            await until(lambda: at.beats[-1].store_error)
            asked = service.count("GET", EVENTS)
            await until(lambda: service.count("GET", EVENTS) > asked + 3)
            assert service.started == []
            folder.unlink()
            away.rename(folder)
            await until(lambda: service.started)
    assert service.heads[0].checkpoint.step == 7  # type: ignore[union-attr]


async def test_a_notice_goes_out_at_once_and_not_with_the_next_beat(
    store: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisors, "TICK_S", 3600.0)
    monkeypatch.setenv("VL_HOME", str(tmp_path / "vl"))
    await heads.submit(store, RunSpec("char", "test", "true", CheckpointPolicy("ckpt")))
    folder = paths.launch_folder("char", 1)
    folder.make()
    one = Supervisor(AgentConfig("char", "test", 1, url), folder)
    running = asyncio.create_task(one.run())

    def beat() -> Beat:
        return decode(Beat, folder.beat.read_bytes())

    try:
        await until(lambda: folder.beat.exists() and beat().phase == "prepared")
        one.notice(Notice("aws", 2e9, "spot instance-action terminate"))
        await until(lambda: beat().notice_deadline == 2e9)
        assert (beat().notice_left_s or 0) > 0
        one.withdrawn("aws", "it will not")
        await until(lambda: beat().notice_deadline is None)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_who_is_attached_hears_of_a_notice_while_the_box_still_saves(box: MakeBox, store: Store) -> None:
    """By beat and by journal, so that the next box can be started meanwhile."""
    imds = Ec2()
    with serving(imds):
        here = box(env={"AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.url, "VL_NOTICE_POLL_S": "0.2"})
        await here.submit(train("--wait-at", 7))
        here.supervise(beat_s=3600.0)
        async with here.attach() as at:
            await here.start(at)
            await until(lambda: at.beats[-1].durable_step == 5)
            imds.notice("terminate", 12)
            await until(lambda: at.beats[-1].notice_deadline)
            assert at.beats[-1].phase == "training"
            assert 0 < (at.beats[-1].notice_left_s or 0) <= 12
            assert (await head_of(store, "char")).state == "running"
            assert (await at.event("notice")).fields["source"] == "aws"
            await at.event("ended", state="notice")
    assert (await head_of(store, "char")).state == "released"


async def test_where_the_box_is_and_how_it_ends_itself_is_in_the_journal(box: MakeBox, store: Store) -> None:
    here = box(env={"RUNPOD_POD_ID": "7h9k", "RUNPOD_API_KEY": "pod-scoped"})
    await here.submit(["sh", "-c", "echo key=$RUNPOD_API_KEY. pod=$RUNPOD_POD_ID."])
    here.supervise(owned=True)
    async with here.attach() as at:
        await here.start(at)
        claimed = (await at.event("claimed")).fields
        assert (claimed["provider"], claimed["notices"]) == ("runpod", ["signal"])
        assert claimed["ends"] == "it is the person's own: it stays on"
        await until(lambda: b"pod=7h9k." in at.streams.get((1, "log"), b""))
        assert b"key=." in at.streams[1, "log"], "the pod's key is the agent's"
    assert b"pod-scoped" not in json.dumps([event.line().decode() for event in at.journal()]).encode()


async def test_sigterm_to_the_supervisor_is_a_notice_and_it_lives_on_to_bring_its_save_home(
    box: MakeBox, store: Store
) -> None:
    here = box(env={"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    await here.submit(train("--helper", "--wait-at", 7))
    pid = here.supervise()["pid"]
    async with here.attach() as at:
        await here.start(at)
        await until(lambda: at.beats[-1].step == 7)
        os.kill(pid, signal.SIGTERM)
        notice = (await at.event("notice")).fields
        assert (notice["source"], notice["detail"]) == ("kubernetes", "SIGTERM")
        assert 25 < notice["window_s"] <= 30
        await at.event("ended", state="notice")
    head = await head_of(store, "char")
    assert head.checkpoint is not None
    assert (head.state, head.checkpoint.step) == ("released", 7)
