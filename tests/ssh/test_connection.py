"""What asyncssh would hide, and we must not: each of these fails on the naive use."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.fixtures.sshd import Relay, Sshd
from vl_tui.ssh import connection
from vl_tui.ssh.connection import Connection, HostKeyChanged, LinkLost, LoginRefused, Unreachable, connect
from vl_tui.ssh.hostkeys import Pins


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    return Pins(tmp_path / "pins")


async def dial(sshd: Sshd, pins: Pins, port: int = 0) -> Connection:
    return await connect(sshd.address(port), box_id="box-1", pins=pins, timeout=10)


async def test_a_command_runs_with_stdin_and_its_exit_status_comes_back(sshd: Sshd, pins: Pins) -> None:
    conn = await dial(sshd, pins)
    body = bytes(range(256)) * 4096
    done = await conn.run("cat; echo words >&2; exit 3", stdin=body, timeout=10)
    assert (done.exit_status, done.stdout, done.stderr) == (3, body, b"words\n")
    conn.abort()


async def test_a_dropped_link_is_not_an_empty_success(sshd: Sshd, pins: Pins, relay: Relay) -> None:
    conn = await dial(sshd, pins, relay.port)
    command = asyncio.create_task(conn.run("sleep 30; pgrep nothing", timeout=20))
    await asyncio.sleep(0.2)
    relay.drop()
    with pytest.raises(LinkLost):
        await command


async def test_a_command_in_a_partition_ends_within_its_limit(sshd: Sshd, pins: Pins, relay: Relay) -> None:
    conn = await dial(sshd, pins, relay.port)
    relay.cut()
    began = time.monotonic()
    with pytest.raises(LinkLost):
        await conn.run("true", timeout=1)
    assert time.monotonic() - began < 5
    conn.abort()


async def test_a_silent_partition_closes_the_connection(
    sshd: Sshd, pins: Pins, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connection.KEEPALIVE_S * (connection.KEEPALIVE_COUNT + 1) <= 15
    monkeypatch.setattr(connection, "KEEPALIVE_S", 1)
    monkeypatch.setattr(connection, "KEEPALIVE_COUNT", 1)
    conn = await dial(sshd, pins, relay.port)
    relay.cut()
    await asyncio.wait_for(asyncio.shield(conn.closed), 25)


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ssh-rsa"])
async def test_a_changed_host_key_is_an_alarm_also_when_it_is_of_another_type(
    sshd: Sshd, pins: Pins, kind: str
) -> None:
    (await dial(sshd, pins)).abort()
    sshd.stop()
    sshd.new_host_key(kind)
    sshd.start()
    with pytest.raises(HostKeyChanged) as alarm:
        await dial(sshd, pins)
    assert str(pins.path("box-1")) in str(alarm.value)


async def test_the_key_that_the_provider_told_goes_before_first_use(sshd: Sshd, pins: Pins) -> None:
    other = Sshd(sshd.folder / "other")
    told = (other.folder / "authorized").read_text()
    with pytest.raises(HostKeyChanged):
        await connect(sshd.address(), box_id="box-1", pins=pins, host_keys=[told], timeout=10)


async def test_a_refused_login_and_a_closed_port_are_told_apart(sshd: Sshd, pins: Pins) -> None:
    (sshd.folder / "authorized").write_text("")
    with pytest.raises(LoginRefused, match="authorized_keys"):
        await dial(sshd, pins)
    sshd.stop()
    with pytest.raises(Unreachable, match=str(sshd.port)):
        await dial(sshd, pins)


async def test_a_black_hole_is_given_up_in_time(sshd: Sshd, pins: Pins, relay: Relay) -> None:
    relay.cut()
    began = time.monotonic()
    with pytest.raises(Unreachable):
        await connect(sshd.address(relay.port), box_id="box-1", pins=pins, timeout=1)
    assert time.monotonic() - began < 5


def test_asyncssh_sessions_are_opened_in_one_place_only() -> None:
    root = Path(__file__).parents[2] / "vl_tui"
    allowed = {root / "ssh/connection.py"}
    words = ("asyncssh.connect(", "create_process(", ".create_session(")
    found = [
        path
        for path in root.rglob("*.py")
        if path not in allowed and "demo/fleet" not in path.as_posix() and any(w in path.read_text() for w in words)
    ]
    assert found == []
