"""The real S3 server behind a network with faults: nothing lost, no busy loop, said aloud, over by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blake3 import blake3
from vl_agent import head as heads
from vl_agent.checkpoints import restore as restoring
from vl_agent.checkpoints import upload
from vl_agent.checkpoints.pipeline import Pipeline
from vl_agent.checkpoints.upload import TRIES
from vl_agent.checkpoints.watch import Watch
from vl_agent.protocol import CheckpointPolicy, RunSpec
from vl_agent.reach import Reach
from vl_agent.status import Status
from vl_agent.store import Store, StoreError, open_store

from tests.agent.held import RUN, Told
from tests.agent.protected import until
from tests.fixtures import faults
from tests.fixtures.faults import Fault, FaultyProxy, Request
from vl_tui.demo.s3 import S3Server

PART = 64 * 1024
SIZE = 5 * PART + 11
PARTS = 6
IN_FLIGHT = 3


@pytest.fixture(autouse=True)
def small_and_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vl_agent.checkpoints.pipeline._MOST_PAUSE_S", 0.4)
    for name, value in (
        ("PART", PART), ("MOST_PART", PART), ("IN_FLIGHT", IN_FLIGHT * PART), ("LEAST_LIMIT_S", 0.5),
        ("FIRST_LIMIT_S", 0.5), ("MOST_LIMIT_S", 4.0),
    ):  # fmt: skip
        monkeypatch.setattr(upload, name, value)


class Run:
    """A run whose epoch the test holds; its store is reached through the proxy."""

    def __init__(self, folder: Path, s3: S3Server, proxy: FaultyProxy) -> None:
        self.folder, self.proxy = folder, proxy
        self.url, self.options = f"s3://{s3.bucket}/{secrets.token_hex(6)}", s3.options
        self.store = self.through_proxy()
        self.direct = open_store(self.url, s3.options, timeout_s=10.0)
        self.told, self.status = Told(), Status(0)
        self.checkpoints = folder / "ckpt"
        self.checkpoints.mkdir()

    def through_proxy(self) -> Store:
        return open_store(self.url, {**self.options, "endpoint": self.proxy.endpoint}, timeout_s=1.5)

    async def begin(self) -> None:
        await heads.submit(self.direct, RunSpec(RUN, "test", "true", CheckpointPolicy("ckpt")))
        head = await heads.takeover(self.direct, RUN)
        watch = Watch(self.checkpoints)
        self.pipeline = Pipeline(
            self.store, RUN, head, watch, Reach(self.status, self.told.tell), keep=3, tell=self.told.tell,
            swept=lambda: True,
        )  # fmt: skip

    def save(self, step: int) -> bytes:
        body = b"\x80\x02" + os.urandom(SIZE - 2)  # no zip: believed as it is once the command has ended
        (self.checkpoints / f"step-{step}.pt").write_bytes(body)
        return body

    @contextlib.asynccontextmanager
    async def uploading(self) -> AsyncIterator[asyncio.Task[None]]:
        """The command has ended: its save is brought, whatever it takes."""
        task = asyncio.create_task(self.pipeline.run())
        try:
            await self.pipeline.close()
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def brought(self) -> None:
        async with self.uploading() as task:
            await asyncio.wait_for(task, 60)

    async def restored(self, through_faults: bool = False) -> restoring.Restored:
        """Into a fresh folder; asked until the store answers, as an attempt does."""
        store = self.store if through_faults else self.direct
        head, _ = await heads.read(self.direct, RUN)
        self.back = self.folder / secrets.token_hex(4)
        while True:
            with contextlib.suppress(StoreError):
                return await restoring.restore(store, RUN, head, self.back, self.folder / "cache", self.told.tell)
            await asyncio.sleep(0.1)

    async def checked(self, step: int, body: bytes) -> None:
        """The newest checkpoint is this one, whole, and no part of it was stored twice."""
        head, _ = await heads.read(self.direct, RUN)
        assert head.checkpoint is not None
        assert (head.checkpoint.step, len(head.kept)) == (step, 1)
        assert (await self.restored()).step == step
        assert (self.back / f"step-{step}.pt").read_bytes() == body
        blobs = await self.direct.list(f"runs/{RUN}/blobs/")
        assert len(blobs) == PARTS


@pytest.fixture
async def run(tmp_path: Path, s3: S3Server) -> AsyncIterator[Run]:
    async with FaultyProxy(*s3.address) as proxy:
        made = Run(tmp_path, s3, proxy)
        await made.begin()
        yield made


EVERYWHERE: dict[str, Fault] = {
    "5xx": faults.BROKEN,
    "throttled": faults.SLOW_DOWN,
    "time-out": faults.Silent(),
    "lost reply": faults.LostReply(),
    "reset before": faults.ResetRequest(),
    "reset in the body": faults.ResetRequest(after=300),
    "wrong ETag": faults.WrongETag(),
}
REQUESTS = [("PUT", "/blobs/"), ("PUT", "/checkpoints/"), ("GET", "head.json"), ("PUT", "head.json")]


@pytest.mark.parametrize(("method", "path"), REQUESTS)
@pytest.mark.parametrize("name", EVERYWHERE)
async def test_one_fault_anywhere_loses_and_doubles_nothing(run: Run, name: str, method: str, path: str) -> None:
    body = run.save(5)
    run.proxy.fault = faults.first(1, EVERYWHERE[name], method=method, path=path)
    await run.brought()
    await run.checked(5, body)
    assert len(run.told.of("durable")) == 1
    assert len(run.proxy.seen) < 40


@pytest.mark.parametrize(("path", "count"), [("/checkpoints/", 1), ("head.json", 1), ("head.json", 4)])
async def test_a_conflict_beside_412_is_asked_again(run: Run, path: str, count: int) -> None:
    body = run.save(5)
    run.proxy.fault = faults.first(count, faults.CONFLICT, method="PUT", path=path)
    await run.brought()
    await run.checked(5, body)
    assert path != "head.json" or run.told.of("at_risk") == []


OUTAGES: dict[str, tuple[Fault, str]] = {
    "5xx": (faults.BROKEN, "500"),
    "throttled": (faults.SLOW_DOWN, "503"),
    "time-out": (faults.Silent(), "no answer|timed out|timeout|operation"),
    "reset": (faults.ResetRequest(after=300), "Check the network"),
    "lost reply": (faults.LostReply(), "Check the network"),
    "credentials end": (faults.EXPIRED, "refuses our credentials"),
    "clock": (faults.SKEWED, "this box's clock is 3600 s ahead of the store's"),
}


@pytest.mark.parametrize("name", OUTAGES)
async def test_an_outage_in_the_middle_is_said_and_the_upload_goes_on_where_it_was(run: Run, name: str) -> None:
    fault, words = OUTAGES[name]
    body = run.save(5)
    out, put = True, 0

    def after_two_parts(request: Request) -> Fault | None:
        nonlocal put
        if request.method == "PUT" and "/blobs/" in request.path:
            put += 1
        return fault if out and put > 2 else None

    run.proxy.fault = after_two_parts
    async with run.uploading() as task:
        await until(lambda: run.told.of("at_risk"), "it is said", 60)
        assert len(run.proxy.seen) <= 2 + IN_FLIGHT * TRIES + 10, "no busy loop"
        assert run.status.store_error
        assert re.search(words, run.status.store_error), run.status.store_error
        assert run.told.of("durable") == []
        out = False
        await asyncio.wait_for(task, 60)
    assert run.told.kinds("at_risk", "not_at_risk", "durable") == ["at_risk", "durable", "not_at_risk"]
    assert run.status.store_error == ""
    await run.checked(5, body)
    kept = [one for one in run.proxy.asked("PUT", "/blobs/") if one.answered]
    assert len(kept) == PARTS, "what was in the store is not sent again"


async def test_credentials_that_ended_are_asked_about_seldom(run: Run) -> None:
    run.save(5)
    run.proxy.fault = lambda request: faults.EXPIRED if "/blobs/" in request.path else None
    async with run.uploading():
        await until(lambda: run.told.of("at_risk"), "it is said", 60)
        assert len(run.proxy.asked("PUT", "/blobs/")) <= IN_FLIGHT
    assert run.told.of("at_risk")[0]["why"].count("check keys, expiry") == 1


BODIES: dict[str, Fault] = {
    "5xx": faults.BROKEN,
    "throttled": faults.SLOW_DOWN,
    "time-out": faults.Silent(),
    "reset in the body": faults.ResetReply(after=PART // 2),
    "truncated": faults.Truncated(after=PART // 3),
    "slow": faults.Slow(block=8192, pause_s=0.02),
    "stalls": faults.Stalls(after=PART // 2),
    "drips": faults.Slow(block=1, pause_s=0.05),
    "wrong ETag": faults.WrongETag(),
}


@pytest.mark.parametrize("alone", [False, True], ids=["direct", "by obstore alone"])
@pytest.mark.parametrize("name", BODIES)
async def test_a_restore_comes_through(run: Run, monkeypatch: pytest.MonkeyPatch, name: str, alone: bool) -> None:
    monkeypatch.setattr("vl_agent.store.objects.STALL_S", 1.0)
    if alone:
        monkeypatch.setattr("vl_agent.store.objects.reachable", lambda endpoint: False)
        run.store = run.through_proxy()
    body = run.save(5)
    await run.brought()
    run.proxy.seen.clear()
    run.proxy.fault = faults.first(4, BODIES[name], method="GET", path="/blobs/")
    found = await run.restored(through_faults=True)
    assert (found.step, found.bad) == (5, ()), "an outage is no bad checkpoint"
    assert blake3((run.back / "step-5.pt").read_bytes()).digest() == blake3(body).digest()
    assert len(run.proxy.seen) < 40


async def test_a_restore_through_a_long_outage_asks_within_bounds(run: Run) -> None:
    body = run.save(5)
    await run.brought()
    run.proxy.seen.clear()
    out = True
    run.proxy.fault = lambda request: faults.SLOW_DOWN if out and "/blobs/" in request.path else None
    restoring_it = asyncio.create_task(run.restored(through_faults=True))
    await until(lambda: len(run.proxy.seen) > 3, "it asks")
    out = False
    assert (await asyncio.wait_for(restoring_it, 60)).step == 5
    assert (run.back / "step-5.pt").read_bytes() == body
