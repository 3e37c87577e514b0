"""With real parts: a real controller process, the embedded fleet's boxes, SSH, a real S3 server, the agent, a command
that trains nothing but counts. Its box is taken away and its controller killed; it goes on elsewhere and finishes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from vl_agent import head as heads
from vl_agent.protocol import CheckpointPolicy, Event, Head, Intent, RunSpec, workdir_key
from vl_agent.store import Store

from tests.fixtures.fleet import QUICK
from vl_tui.commands import workdir
from vl_tui.config import FleetConfig, load_fleet
from vl_tui.controller import process
from vl_tui.demo.fleet.client import FleetProcess
from vl_tui.demo.s3 import S3Server
from vl_tui.store import intents, journals, runs
from vl_tui.store.opening import open_fleet_store

COUNT = """
import glob, json, os, time

os.makedirs("ckpt", exist_ok=True)
done = [int(name[-11:-5]) for name in glob.glob("ckpt/model_*.json")]
step = max(done, default=0)
print("resumes at", step, flush=True)
while step < 60:
    time.sleep(0.15)
    step += 1
    while step == 50 and not os.path.exists("GO"):
        time.sleep(0.1)
    if step % 5 == 0:
        with open("ckpt/.part", "w") as file:
            json.dump({"step": step}, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename("ckpt/.part", f"ckpt/model_{step:06d}.json")
"""


@dataclass
class Real:
    """Everything that runs, and how to look at it. The command counts to 60, beyond 50 only once ``go`` is there."""

    config: FleetConfig
    store: Store
    boxes: FleetProcess
    folder: Path

    @property
    def go(self) -> Path:
        return self.folder / "go"

    async def submit(self) -> None:
        work, tar = self.folder / "work", self.folder / "work.tar"
        work.mkdir()
        (work / "count.py").write_text(COUNT.replace("GO", str(self.go)))
        digest = workdir.pack(work, tar, ignore=()).digest
        await self.store.put_file(workdir_key("count", digest), tar)
        grace = self.config.defaults.grace
        policy = CheckpointPolicy("ckpt")
        await heads.submit(
            self.store, RunSpec("count", "real", "python3 count.py", policy, workdir=digest, grace_s=grace)
        )
        await self.ensure()

    async def ensure(self) -> None:
        await asyncio.to_thread(process.ensure_controller, self.config.path)
        await asyncio.to_thread(process.wake, self.config.fleet)

    async def head(self) -> Head:
        return await runs.head(self.store, "count")

    async def events(self, kind: str = "") -> Sequence[Event]:
        return [event for event in await journals.read_events(self.store, "count") if kind in ("", event.kind)]

    async def durable(self) -> int:
        head = await self.head()
        return head.checkpoint.step if head.checkpoint else 0

    async def box_name(self) -> str:
        head = await self.head()
        return next(
            one.record.name for one in await runs.launches(self.store, "count") if one.record.number == head.launch
        )

    async def until(self, what: str, true: Callable[[], Awaitable[bool]], within_s: float = 60.0) -> None:
        end = time.monotonic() + within_s
        while not await true():
            if time.monotonic() > end:
                log = (self.config.runtime_dir / f"{self.config.fleet}.log").read_text()[-4000:]
                told = "\n".join(str(event) for event in await self.events() if event.kind != "step")
                pytest.fail(f"not within {within_s} s: {what}\n{await self.head()}\n{log}\n{told}")
            await asyncio.sleep(0.1)

    async def trains(self, epoch: int) -> bool:
        head = await self.head()
        return head.epoch >= epoch and head.state == "running" and await self.durable() > 0


@pytest.fixture
async def real(tmp_path: Path, s3: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Real]:
    for variable in ("RUNTIME_DIR", "STATE_HOME", "CACHE_HOME", "CONFIG_HOME"):
        home = tmp_path / variable.lower()
        home.mkdir(mode=0o700)
        monkeypatch.setenv(f"XDG_{variable}", str(home))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.options["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.options["secret_access_key"])
    monkeypatch.setenv("VL_CONTROLLER_IDLE_S", "1")
    endpoint, socket = s3.options["endpoint"], tmp_path / "fleet.sock"
    path = tmp_path / "fleet.yaml"
    path.write_text(
        f"fleet: real\nstore: {s3_url}\nendpoint: {endpoint}\nregion: us-east-1\nbox_credentials: {{role: {s3.role}}}\n"
        f"providers: [{{kind: local, socket: {socket}}}]\ndefaults: {{grace: 6s, poll: 1s, beat: 1s}}\n"
    )
    settings = {**QUICK, "store": endpoint.removeprefix("http://")}
    async with FleetProcess(tmp_path / "boxes", socket, settings) as boxes:
        config = load_fleet(path)
        store = open_fleet_store(config)
        yield Real(config, store, boxes, tmp_path)
        await store.close()
        left = process.pid(config)
        if left is not None:
            os.kill(left, signal.SIGKILL)


async def test_a_run_survives_the_loss_of_its_box_and_of_its_controller(real: Real) -> None:
    await real.submit()
    await real.until("it trains", lambda: real.trains(1))

    pid = process.pid(real.config)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    durable = await real.durable()
    await real.until("the run goes on without a controller", lambda: _more(real, durable))
    await real.ensure()
    assert (await real.head()).epoch == 1

    first = await real.box_name()
    await real.boxes.lab.reclaim(first, 0)
    await real.until("it trains elsewhere", lambda: real.trains(2))
    assert await real.box_name() != first

    real.go.touch()
    await real.until("it has finished", lambda: _state(real, "finished"))
    await real.until("its boxes are gone", lambda: _none_living(real))
    launched = await real.events("launched")
    assert len(launched) == len(await real.boxes.lab.boxes()) == 2
    assert launched[0].fields["place"] != launched[1].fields["place"]
    await real.until("the controller ends by itself", lambda: _no_controller(real), 20)


async def test_a_person_moves_a_run_and_stops_it(real: Real) -> None:
    await real.submit()
    await real.until("it trains", lambda: real.trains(1))
    await intents.write(real.store, Intent("k1", "count", (await real.head()).epoch, "escalate", by="me"))
    await asyncio.to_thread(process.wake, real.config.fleet)
    await real.until("it is answered", lambda: _answered(real, "k1"))
    await real.until("it trains on demand", lambda: real.trains(2))
    assert (await real.events("attempt"))[-1].fields["market"] == "on_demand"
    await intents.write(real.store, Intent("k2", "count", 2, "stop", by="me"))
    await asyncio.to_thread(process.wake, real.config.fleet)
    await real.until("it has stopped", lambda: _state(real, "stopped"))
    await real.until("its boxes are gone", lambda: _none_living(real))


async def _more(real: Real, durable: int) -> bool:
    return await real.durable() > durable


async def _state(real: Real, state: str) -> bool:
    return (await real.head()).state == state


async def _none_living(real: Real) -> bool:
    return not (await real.boxes.lab.orphans())["boxes"]


async def _no_controller(real: Real) -> bool:
    return await asyncio.to_thread(process.pid, real.config) is None


async def _answered(real: Real, intent_id: str) -> bool:
    return await intents.answered(real.store, intent_id) is not None
