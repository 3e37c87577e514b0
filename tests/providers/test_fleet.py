"""What the embedded fleet does to its boxes, and what is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from tests.fixtures.fleet import QUICK, RunningFleet, eventually
from vl_tui.demo.fleet import descendants
from vl_tui.demo.fleet.client import FleetError, FleetProcess
from vl_tui.domain.box import Box
from vl_tui.providers.base import NotFound, Transient
from vl_tui.providers.local import LocalProvider

DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
if sys.argv[1] == "marked": time.sleep(600)
os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], {})
"""


async def shell(fleet: RunningFleet, box: Box, command: str, stdin: str = "") -> str:
    connection = await fleet.connect(box)
    try:
        done = await connection.run(command, input=stdin, timeout=10)
        assert done.exit_status == 0, done.stderr
        return str(done.stdout)
    finally:
        connection.abort()


async def facts(fleet: RunningFleet, box: Box) -> dict[str, object]:
    return next(row for row in await fleet.lab.boxes() if row["id"] == box.id)


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


async def disk(fleet: RunningFleet, box: Box) -> Path:
    return Path((await shell(fleet, box, "echo $HOME")).strip())


# -- an SSH server like others ---------------------------------------------------------------------------------


async def test_a_session_carries_bytes_as_they_are_and_the_exit_status(fleet: RunningFleet) -> None:
    box = await fleet.box()
    connection = await fleet.connect(box)
    body = os.urandom(3_000_000) + b"\r\n\x03\x04\xff"
    done = await connection.run("cat; echo words >&2; exit 7", input=body, encoding=None, timeout=20)
    assert (done.stdout == body, done.stderr, done.exit_status) == (True, b"words\n", 7)
    killed = await connection.run("kill -9 $$", timeout=10)
    assert killed.exit_signal is not None
    assert killed.exit_signal[0] == "KILL"
    connection.abort()


async def test_a_flood_that_nobody_reads_leaves_the_connection_usable(fleet: RunningFleet) -> None:
    box = await fleet.box()
    connection = await fleet.connect(box)
    flood = await connection.create_process("yes; true", encoding=None)
    await flood.stdout.readexactly(1 << 20)
    flood.send_signal("TERM")
    done = await connection.run("echo still here", timeout=10)
    assert done.stdout == "still here\n"
    connection.abort()


async def test_a_command_outlives_the_link_that_started_it(fleet: RunningFleet) -> None:
    box = await fleet.box()
    connection = await fleet.connect(box)
    process = await connection.create_process("echo $$; exec sleep 600")
    pid = int(await process.stdout.readline())
    connection.abort()
    assert await shell(fleet, box, "echo again") == "again\n"
    assert alive(pid)


async def test_another_key_than_the_launchs_is_not_let_in(fleet: RunningFleet) -> None:
    box = await fleet.box()
    other = RunningFleet(fleet.process, asyncssh.generate_private_key("ssh-ed25519"))
    with pytest.raises(asyncssh.PermissionDenied):
        await other.connect(box)


async def test_a_box_knows_nothing_of_the_operators_environment(
    fleet: RunningFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = await fleet.box()
    names = {line.partition("=")[0] for line in (await shell(fleet, box, "env")).splitlines()}
    assert {"HOME", "TMPDIR", "PATH", "VL_BOX", "AWS_EC2_METADATA_SERVICE_ENDPOINT", "VL_POWEROFF"} <= names
    assert not any(name.startswith(("AWS_SECRET", "AWS_ACCESS", "SSH_", "XDG_")) for name in names)


# -- the end of a box ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["marked", "unmarked"])
async def test_ending_a_box_ends_daemons_that_forked_twice_and_its_disk(fleet: RunningFleet, kind: str) -> None:
    box = await fleet.box()
    home = await disk(fleet, box)
    await shell(fleet, box, f"cat > daemon.py && python3 daemon.py {kind} </dev/null >/dev/null 2>&1", DAEMON)
    first = int((await shell(fleet, box, "echo $PPID")).strip())
    await eventually(lambda: _true(len(descendants.of(first)) == 1))
    (daemon,) = descendants.of(first)
    assert (daemon in descendants.marked(box.id)) == (kind == "marked")
    await fleet.provider().terminate(box.id)
    assert not alive(daemon)
    assert not alive(first)
    assert not home.exists()
    assert await fleet.lab.orphans() == {"boxes": [], "processes": []}


async def test_a_box_whose_processes_fork_all_the_time_ends_too(fleet: RunningFleet) -> None:
    box = await fleet.box()
    await shell(fleet, box, "sh -c 'while :; do (sleep 0.02 &) ; done' </dev/null >/dev/null 2>&1 &")
    began = time.monotonic()
    await fleet.provider().terminate(box.id)
    assert time.monotonic() - began < 5
    assert (await facts(fleet, box))["pids"] == []


async def test_a_box_whose_first_process_is_killed_leaves_nothing(fleet: RunningFleet) -> None:
    box = await fleet.box()
    home = await disk(fleet, box)
    await shell(fleet, box, "setsid sleep 600 </dev/null >/dev/null 2>&1 &")
    os.kill(int((await shell(fleet, box, "echo $PPID")).strip()), signal.SIGKILL)
    gone = await fleet.until(fleet.provider(), box.id, lambda found: found.state == "gone")
    assert gone.cause == "it ended by itself"
    await eventually(lambda: _is_over(fleet, box))
    assert (await facts(fleet, box))["pids"] == []
    assert not home.exists()


async def test_a_box_can_end_its_own_bill(fleet: RunningFleet) -> None:
    box = await fleet.box()
    connection = await fleet.connect(box)
    with contextlib.suppress(asyncssh.Error):
        await connection.run("$VL_POWEROFF", timeout=5)
    gone = await fleet.until(fleet.provider(), box.id, lambda found: found.state == "gone")
    assert gone.cause == "it ended by itself"
    assert await fleet.provider().ours("t") == []


# -- reclaims --------------------------------------------------------------------------------------------------


class Imds:
    """A client of a box's metadata, in the form that the SDKs use."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint.strip()
        self.token = ""

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            sent["X-aws-ec2-metadata-token"] = self.token
        request = urllib.request.Request(self._endpoint + path, method=method, headers=sent)
        return await asyncio.to_thread(self._open, request)

    def _open(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""


async def imds(fleet: RunningFleet, box: Box) -> Imds:
    one = Imds(await shell(fleet, box, "echo $AWS_EC2_METADATA_SERVICE_ENDPOINT"))
    status, one.token = await one.ask("/latest/api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60")
    assert status == 200
    return one


async def test_metadata_wants_a_token_first(fleet: RunningFleet) -> None:
    box = await fleet.box()
    one = await imds(fleet, box)
    assert await one.ask("/latest/meta-data/instance-life-cycle") == (200, "spot")
    assert await one.ask("/latest/meta-data/instance-id") == (200, box.id)
    one.token = "another"
    assert (await one.ask("/latest/meta-data/instance-life-cycle"))[0] == 401
    assert (await one.ask("/latest/api/token", "PUT"))[0] == 400


async def test_a_notice_is_told_by_the_metadata_and_the_box_goes_when_its_window_is_over(
    fleet: RunningFleet,
) -> None:
    box = await fleet.box()
    one = await imds(fleet, box)
    assert (await one.ask("/latest/meta-data/spot/instance-action"))[0] == 404
    began = time.time()
    await fleet.lab.reclaim(box.name, 2)
    status, body = await one.ask("/latest/meta-data/spot/instance-action")
    assert status == 200
    assert json.loads(body)["action"] == "terminate"
    now = (await fleet.provider().describe([box.id]))[box.id]
    assert now is not None
    assert now.state == "running"
    gone = await fleet.until(fleet.provider(), box.id, lambda found: found.state == "preempted")
    assert 1.9 < time.time() - began < 4
    assert gone.cause == "nimbus reclaimed it 2 s after a notice"
    with pytest.raises(NotFound):
        await fleet.lab.reclaim(box.name, 0)


async def test_a_provider_with_a_reclaim_rate_takes_spot_boxes_by_itself_and_no_others(tmp_path: Path) -> None:
    place = {"name": "p", "spot_usd_hour": 1.0, "on_demand_usd_hour": 2.0}
    hasty = {"name": "nimbus", "boot_s": 0, "notice_s": 0, "reclaims_per_hour": 36_000, "places": [place]}
    async with FleetProcess(tmp_path / "s", tmp_path / "f.sock", {"providers": [hasty]}) as process:
        fleet = RunningFleet(process, asyncssh.generate_private_key("ssh-ed25519"))
        kept = await fleet.box("vl-t-run-1", market="on_demand")
        taken = await fleet.box("vl-t-run-2")
        await fleet.until(fleet.provider(), taken.id, lambda found: found.state == "preempted")
        now = (await fleet.provider().describe([kept.id]))[kept.id]
        assert now is not None
        assert now.state == "running"


# -- partitions ------------------------------------------------------------------------------------------------


@pytest.fixture
async def echo() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Stands for the store: notes what reaches it and answers each piece."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(4096):
                heard.append(chunk)
                writer.write(b"ok:" + chunk)
                await writer.drain()
            heard.append(b"EOF")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heard
    server.close()


async def test_a_partition_holds_bytes_without_an_end_and_healing_delivers_them(
    tmp_path: Path, echo: tuple[str, list[bytes]]
) -> None:
    address, heard = echo
    async with FleetProcess(tmp_path / "s", tmp_path / "f.sock", {**QUICK, "store": address}) as process:
        fleet = RunningFleet(process, asyncssh.generate_private_key("ssh-ed25519"))
        box = await fleet.box()
        endpoint = (await shell(fleet, box, "echo $VL_STORE_ENDPOINT")).strip()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(endpoint.rpartition(":")[2]))
        writer.write(b"before")
        assert await reader.readexactly(9) == b"ok:before"
        ssh = await fleet.connect(box)
        ticking = await ssh.create_process("while :; do echo tick >> ticks; sleep 0.05; done")
        await fleet.lab.partition(box.name)

        writer.write(b"during")
        late_reader, late_writer = await asyncio.open_connection("127.0.0.1", int(endpoint.rpartition(":")[2]))
        late_writer.write(b"late")
        late_writer.write_eof()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.gather(reader.read(1), late_reader.read(1)), 0.5)
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await asyncio.wait_for(fleet.connect(box), 0.5)
        assert heard == [b"before"]
        assert not ssh.is_closed()
        ticks = fleet.process.state / "boxes" / box.id / "ticks"
        size = ticks.stat().st_size
        await eventually(lambda: _true(ticks.stat().st_size > size))

        await fleet.lab.heal(box.name, "link")
        await eventually(lambda: _true(b"during" in heard and b"late" in heard))
        assert (await asyncio.wait_for(ssh.run("echo back"), 5)).stdout == "back\n"
        ticking.close()
        ssh.abort()
        for one in (writer, late_writer):
            one.close()


async def test_a_partitioned_boxs_provider_knows_nothing_of_it_until_its_word_is_healed(fleet: RunningFleet) -> None:
    box = await fleet.box()
    await fleet.lab.partition(box.name)
    await fleet.lab.heal(box.name, "link")
    assert await shell(fleet, box, "echo in") == "in\n"
    with pytest.raises(Transient):
        await fleet.provider().terminate(box.id)
    assert [found.state for found in await fleet.provider().ours("t")] == ["unknown"]
    await fleet.lab.heal(box.name, "word")
    assert [found.state for found in await fleet.provider().ours("t")] == ["running"]


async def test_a_box_can_be_reclaimed_while_it_is_cut_off(fleet: RunningFleet) -> None:
    box = await fleet.box()
    await fleet.lab.partition(box.name)
    await fleet.lab.reclaim(box.name, 0)
    assert (await facts(fleet, box))["pids"] == []
    await fleet.lab.heal(box.name, "all")
    found = (await fleet.provider().describe([box.id]))[box.id]
    assert found is not None
    assert found.state == "preempted"


# -- the end of the fleet --------------------------------------------------------------------------------------


async def test_a_killed_fleet_leaves_no_process_of_a_box_and_the_next_one_knows_its_boxes(
    fleet: RunningFleet,
) -> None:
    box = await fleet.box()
    home = await disk(fleet, box)
    await shell(fleet, box, "cat > daemon.py && python3 daemon.py marked </dev/null >/dev/null 2>&1", DAEMON)
    await eventually(lambda: _true(len(descendants.marked(box.id)) > 1), 20)  # it daemonises by itself
    os.kill(fleet.process.pid, signal.SIGKILL)
    await eventually(lambda: _true(not descendants.marked(box.id) and not home.exists()), 10)
    async with FleetProcess(fleet.process.state, fleet.process.socket, QUICK) as process:
        after = RunningFleet(process, fleet.key)
        row = await facts(after, box)
        assert (row["alive"], row["state"], row["cause"]) == (False, "gone", "its fleet ended")
        assert (await after.box()).id == box.id, "the name stays this box's: nothing is launched twice"


async def test_a_fleet_whose_leash_is_cut_ends_with_all_its_boxes(fleet: RunningFleet) -> None:
    boxes = [await fleet.box(f"vl-t-run-{number}") for number in range(3)]
    began = time.monotonic()
    await fleet.process.__aexit__(None, None, None)
    assert time.monotonic() - began < 10
    assert all(not descendants.marked(box.id) for box in boxes)
    assert list((fleet.process.state / "boxes").glob("*/")) == []


async def test_a_second_fleet_on_the_same_folder_is_refused(fleet: RunningFleet, tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="another fleet runs on"):
        async with FleetProcess(fleet.process.state, tmp_path / "other.sock", QUICK):
            raise AssertionError("it runs")


async def test_a_socket_path_longer_than_an_address_can_be_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 80) / ("e" * 80)
    deep.mkdir(parents=True)
    async with FleetProcess(tmp_path / "s", deep / "fleet.sock", QUICK):
        assert "answers" in await LocalProvider("nimbus", deep / "fleet.sock").check()


async def _true(value: bool) -> bool:
    return value


async def _is_over(fleet: RunningFleet, box: Box) -> bool:
    return (await facts(fleet, box))["ended"] is not None
