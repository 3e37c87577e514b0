"""Boxes that one already has keep the contract, against a real sshd."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from vl_agent import head as heads
from vl_agent.protocol import AgentConfig, CheckpointPolicy, RunSpec, encode
from vl_agent.store import open_store

from tests.fixtures.fleet import eventually
from tests.fixtures.sshd import Sshd
from tests.providers.contract import NEED, Harness, ProviderContract
from vl_tui.domain.box import Box, Need, SshAddress
from vl_tui.providers.base import Auth, Launch, NoCapacity, Transient
from vl_tui.providers.ssh import SshProvider, parse_answer
from vl_tui.ssh.connection import Unreachable, connect
from vl_tui.ssh.hostkeys import Pins
from vl_tui.ssh.install import install_agent


@pytest.fixture
async def provider(sshd: Sshd, tmp_path: Path) -> AsyncIterator[SshProvider]:
    one = SshProvider("mine", {"desk": sshd.address()}, 0.0, Pins(tmp_path / "pins"))
    yield one
    await one.close()


@pytest.fixture
def at(provider: SshProvider, tmp_path: Path, sshd: Sshd) -> Harness:
    async def login(box: Box) -> str:
        assert box.ssh
        connection = await connect(box.ssh, box_id=box.id, pins=Pins(tmp_path / "more pins"))
        try:
            return (await connection.run("echo in", timeout=10)).stdout.decode().strip()
        finally:
            connection.abort()

    async def cut_off(box: Box) -> None:
        sshd.stop()

    return Harness(provider, "", login, cut_off)


def lock_folder(sshd: Sshd) -> Path:
    return sshd.home / ".vl" / f"box-{os.uname().nodename}"


class TestSsh(ProviderContract):
    pass


OWNER = {"name": "vl-t-run-1", "tags": {"vl-fleet": "t"}, "at": 1.0, "boot_id": "x"}


@pytest.mark.parametrize(
    "said",
    [
        "", "[]", "7", "{", "[" * 50_000, "{}", '{"owner": null}', '{"owner": "x", "past": {}}',
        '{"owner": {"name": 7, "tags": {}}, "past": {}}', '{"owner": {"name": "x", "tags": []}, "past": {}}',
        '{"owner": {"name": "x", "tags": {"vl-run": 7}}, "past": {}}', '{"owner": null, "past": []}',
        '{"owner": null, "past": {"x": 7}}', '{"owner": null, "past": {"x": {"name": "x", "tags": {}, "cause": 7}}}',
        '{"owner": {"name": "x", "tags": {}, "at": "now"}, "past": {}}',
        '{"owner": {"name": "x", "tags": {}, "at": 1e999}, "past": {}}',
        '{"owner": null, "past": {}, "gpus": "A100"}', '{"owner": null, "past": {}, "gpus": [7]}',
        '{"owner": null, "past": {}, "left": 7}',
    ],
)  # fmt: skip
def test_an_answer_that_is_none_makes_its_box_unusable_and_breaks_nothing_else(said: str) -> None:
    with pytest.raises(Unreachable, match="desk: it can't be used: its answer can't be read"):
        parse_answer("desk", said)


def test_the_answers_of_a_box_are_read() -> None:
    past = {"vl-t-run-0": {**OWNER, "cause": "terminated as asked"}}
    for found in ({"owner": OWNER, "past": past}, {"owner": None, "past": {}, "gpus": ["A100"], "gpu_pids": ["7"]}):
        assert parse_answer("desk", json.dumps(found)) == found


async def test_a_box_that_is_lent_is_not_offered_and_not_given_to_another(at: Harness) -> None:
    box = await at.launch()
    (offer,) = await at.provider.offers(NEED)
    assert (offer.available, offer.note) == ("none", "desk is lent to run of fleet t (vl-t-run-1)")
    with pytest.raises(NoCapacity, match="lent to run of fleet t"):
        await at.provider.launch(Launch("vl-t-run-2", offer, {}, ""))
    await at.provider.terminate(box.id)
    assert (await at.offer()).available == "high"


async def test_a_late_termination_of_one_launch_does_not_touch_the_next(at: Harness) -> None:
    first = await at.launch()
    await at.provider.terminate(first.id)
    second = await at.launch("vl-t-run-2")
    await at.provider.terminate(first.id)
    found = await at.state(second)
    assert found is not None
    assert found.state == "running"


async def test_a_restart_of_the_machine_voids_its_lock(at: Harness, sshd: Sshd) -> None:
    box = await at.launch()
    owner = lock_folder(sshd) / "lock" / "owner.json"
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "boot_id": "the boot before"}))
    found = await at.state(box)
    assert found is not None
    assert (found.state, found.cause) == ("gone", "the machine was started anew")
    assert (await at.launch("vl-t-run-2")).state == "running"


async def test_termination_ends_the_launchs_processes_wherever_they_went_and_no_others(at: Harness, sshd: Sshd) -> None:
    box = await at.launch()
    mine = start(
        sshd, "supervise --run run --launch 1", "import os,time; os.fork() and time.sleep(600); time.sleep(600)"
    )
    training = start(sshd, "", "import time; time.sleep(600)", VL_CONTROL=f"{sshd.home}/.vl/runs/run/1/control")
    others = start(sshd, "supervise --run run --launch 11", "import time; time.sleep(600)")
    try:
        began = time.monotonic()
        await at.provider.terminate(box.id)
        assert time.monotonic() - began < 5
        assert (mine.wait(5), training.wait(5)) == (-9, -9)
        assert others.poll() is None
    finally:
        for process in (mine, training, others):
            process.kill()
            process.wait()


def start(sshd: Sshd, arguments: str, program: str, **env: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", program, *arguments.split()]
    return subprocess.Popen(command, env={**os.environ, **env}, start_new_session=True)


async def test_a_host_out_of_reach_is_told_with_the_reason_and_hides_no_other(
    provider: SshProvider, sshd: Sshd, tmp_path: Path
) -> None:
    two = SshProvider(
        "mine", {"desk": sshd.address(), "attic": SshAddress("127.0.0.1", 1, "root")}, 0.0, Pins(tmp_path / "pins")
    )
    try:
        desk, attic = await two.offers(NEED)
        assert desk.available == "high"
        assert attic.available == "none"
        assert "127.0.0.1:1" in attic.note
        assert "1 of 2 hosts" in await two.check()
        with pytest.raises(NoCapacity):
            await two.launch(Launch("vl-t-run-1", attic, {}, ""))
        with pytest.raises(Transient, match="none of the hosts that answer"):
            await two.find("vl-t-run-1")
    finally:
        await two.close()


async def test_a_changed_host_key_is_a_persons_business(provider: SshProvider, sshd: Sshd) -> None:
    await provider.check()
    await provider.close()
    sshd.stop()
    sshd.new_host_key("ssh-ed25519")
    sshd.start()
    with pytest.raises(Auth, match="host key has changed"):
        await provider.check()
    (offer,) = await provider.offers(NEED)
    assert "host key has changed" in offer.note


async def test_a_gpu_that_is_not_there_is_not_offered(provider: SshProvider) -> None:
    (offer,) = await provider.offers(Need("A100:1"))
    assert offer.available == "none"
    assert "not A100:1" in offer.note


async def test_noise_of_a_login_shell_is_not_taken_for_an_answer(at: Harness, sshd: Sshd) -> None:
    (sshd.home / ".bashrc").write_text("echo '{\"owner\": 1}'; echo noise\n")
    assert (await at.launch()).state == "running"


async def test_asking_all_hosts_takes_no_longer_than_the_slowest(sshd: Sshd, tmp_path: Path) -> None:
    hosts = {f"h{number}": sshd.address() for number in range(6)}
    many = SshProvider("mine", hosts, 0.0, Pins(tmp_path / "pins"))
    try:
        await many.offers(NEED)
        await eventually(lambda: answers_within(many, 3.0), 10)
    finally:
        await many.close()


async def answers_within(provider: SshProvider, seconds: float) -> bool:
    began = time.monotonic()
    await provider.offers(NEED)
    return time.monotonic() - began < seconds


async def test_termination_ends_a_real_supervisor(at: Harness, sshd: Sshd, tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    await heads.submit(store, RunSpec("run", "t", "sleep 600", CheckpointPolicy("ckpt")))
    box = await at.launch()
    connection = await connect(sshd.address(), box_id=box.id, pins=Pins(tmp_path / "pins"))
    agent = await install_agent(connection, cache=tmp_path / "cache")
    config = AgentConfig("run", "t", 1, store.url, box=box.id, owned=True)
    supervise = agent.command(["supervise", "--run", "run", "--launch", "1"])
    told = await connection.run(supervise, stdin=encode(config), timeout=20)
    assert told.exit_status == 0, told.stderr
    pid = json.loads(told.stdout)["pid"]
    await at.provider.terminate(box.id)
    await eventually(lambda: _ended(pid))
    connection.abort()
    await store.close()


async def _ended(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat[stat.rindex(")") + 2] == "Z"


@pytest.mark.parametrize(
    ("address", "command"),
    [
        (SshAddress("127.0.0.1", 2222), "ssh -p 2222 127.0.0.1"),
        (SshAddress("gpu.example", 22, "me"), "ssh me@gpu.example"),
        (SshAddress("gpu.example", 22, alias="gpu1"), "ssh gpu1"),
    ],
)
async def test_a_host_out_of_reach_is_told_with_a_command_that_a_person_can_type(
    address: SshAddress, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(_self: object, _do: str, **_: object) -> object:
        raise Unreachable("gpu: Connection refused")

    monkeypatch.setattr("vl_tui.providers.ssh._Host.ask", ask)
    provider = SshProvider("own", {"gpu": address}, 0.0, Pins(tmp_path / "pins"))
    with pytest.raises(Transient, match=re.escape(f"`{command}`")):
        await provider.check()
