"""What can go wrong while the agent gets onto a box, on a real one."""

from __future__ import annotations

import asyncio
import os
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.fixtures.sshd import Relay, Sshd
from tests.ssh.box import TALKS, Box, Listener, until
from vl_tui.ssh import bundle
from vl_tui.ssh.bundle import InstallError, Platform
from vl_tui.ssh.connection import Connection, LinkLost, connect
from vl_tui.ssh.hostkeys import Pins
from vl_tui.ssh.install import Install, install_agent


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    return Pins(tmp_path / "pins")


async def dial(sshd: Sshd, pins: Pins, port: int = 0) -> Connection:
    return await connect(sshd.address(port), box_id="b", pins=pins)


def whole(install: Install, cache: Path) -> bool:
    """Whether what is on the box is the bundle, file by file."""
    with tarfile.open(cache / "bundles" / f"{install.version}.tar.gz") as tar:
        made = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return made == contents(Path(install.root, install.version))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def on_box(sshd: Sshd) -> list[str]:
    root = sshd.home / ".vl"
    return sorted(os.listdir(root)) if root.exists() else []


async def test_an_upload_torn_anywhere_leaves_nothing_in_use_and_the_next_one_heals(
    sshd: Sshd, pins: Pins, relay: Relay, cache: Path
) -> None:
    size = bundle.build(Platform(sys.version_info[:2], os.uname().machine, (2, 36)), cache).path.stat().st_size
    for part in (0.02, 0.5, 0.999):
        conn = await dial(sshd, pins, relay.port)
        relay.budget = int(size * part)
        with pytest.raises(LinkLost):
            await install_agent(conn, cache=cache)
        relay.budget = None
        await until(lambda: not on_box(sshd), "the box has cleaned up")
    conn = await dial(sshd, pins, relay.port)
    install = await install_agent(conn, cache=cache)
    conn.abort()
    assert on_box(sshd) == [install.version]
    assert whole(install, cache)


async def test_a_box_that_loses_power_in_mid_upload_heals(sshd: Sshd, pins: Pins, relay: Relay, cache: Path) -> None:
    conn = await dial(sshd, pins, relay.port)
    size = bundle.build(Platform(sys.version_info[:2], os.uname().machine, (2, 36)), cache).path.stat().st_size
    installing = asyncio.create_task(install_agent(conn, cache=cache))
    await until(lambda: relay.came > size // 2, "half of it has come", 10)
    relay.cut()
    await until(lambda: on_box(sshd), "a part is there")
    sshd.stop()  # kill -9 of all of it, the receiver too
    conn.abort()
    with pytest.raises(LinkLost):
        await installing
    left = on_box(sshd)
    assert left
    assert all(name.startswith(".") for name in left), "nothing that could be taken for an install"
    for name in left:
        os.utime(sshd.home / ".vl" / name, (0, time.time() - 7200))
    relay.heal()
    sshd.start()
    conn = await dial(sshd, pins)
    install = await install_agent(conn, cache=cache)
    conn.abort()
    assert on_box(sshd) == [install.version]
    assert whole(install, cache)


async def test_several_installs_at_once_make_one(sshd: Sshd, pins: Pins, tmp_path: Path) -> None:
    """With an empty cache: the bundle is made by several at once too."""
    conns = await asyncio.gather(*(dial(sshd, pins) for _ in range(4)))
    installs = await asyncio.gather(*(install_agent(conn, cache=tmp_path / "cache") for conn in conns))
    assert len(set(installs)) == 1
    assert on_box(sshd) == [installs[0].version]
    assert whole(installs[0], tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache" / "bundles").iterdir()] == [f"{installs[0].version}.tar.gz"]
    for conn in conns:
        conn.abort()


async def test_noise_of_the_shells_start_files_harms_nothing(box: Box) -> None:
    banner = box.folder / "banner"
    banner.write_text("WELCOME to the cluster\n" * 20)
    box.sshd.more = f"Banner {banner}\nPrintMotd yes\n"
    box.sshd.restart()
    (box.sshd.home / ".bashrc").write_text(
        "echo '{\"python\": \"/bin/false\"}'; echo noise >&2; head -c 100000 /dev/zero | tr '\\0' x; echo;"
        " printf 'no newline at the end'\n"
    )
    await box.submit(TALKS)
    listener = Listener()
    link = box.link(listener)
    box.begin(link)
    await box.start(link, listener)
    await until(lambda: listener.streams.get((1, "log")), "the log")
    box.enough()
    await until(lambda: listener.phase() == "ended", "the end")
    await until(lambda: listener.streams[1, "log"] == box.written("log"), "all of the log")
    assert all(name != "refused" for name, _ in listener.states)


async def test_a_box_without_any_network_gets_it_all_the_same(sshd: Sshd, pins: Pins, cache: Path) -> None:
    sshd.more = 'ForceCommand unshare --net -- /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    sshd.restart()
    conn = await dial(sshd, pins)
    if (await conn.run("true", timeout=10)).exit_status != 0:
        pytest.skip("no network namespaces here")
    assert (await conn.run("cat /proc/net/dev", timeout=10)).stdout.count(b":") <= 2  # lo at most, and it is down
    install = await install_agent(conn, cache=cache)
    done = await conn.run(install.command(["status", "--json"]), timeout=20)
    assert (done.exit_status, done.stderr) == (0, b"")
    conn.abort()


def shim(folder: Path, script: str) -> str:
    """A folder for PATH whose python3 is ``script``."""
    folder.mkdir()
    (folder / "python3").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "python3").chmod(0o755)
    return f"{folder}"


@pytest.mark.parametrize(
    ("python", "words"),
    [
        (f'{sys.executable} "$@" | /bin/sed "s/{os.uname().machine}/riscv64/"', ["riscv64", "x86_64 and aarch64"]),
        ("exit 1", ["no Python 3.10 or newer", "install one there"]),
        ('case "$3" in *3,\\ 10*) exit 0;; esac; echo "broken: no module json" >&2; exit 1', ["broken: no module"]),
        ('case "$3" in *3,\\ 10*) exit 0;; esac; echo "{}"', ["can't be read"]),
    ],
    ids=["another machine", "no python", "a broken python", "no answer"],
)
async def test_a_box_that_cannot_have_the_agent_is_told_once_with_the_reason(
    box: Box, python: str, words: list[str]
) -> None:
    box.sshd.environment["PATH"] = shim(box.folder / "bin", python)
    box.sshd.restart()
    listener = Listener()
    await asyncio.wait_for(box.begin(box.link(listener)), 30)
    name, told = listener.states[-1]
    assert name == "refused"
    assert "\n" not in told
    assert told.startswith(f"127.0.0.1:{box.relay.port}: ")
    assert [word for word in words if word not in told] == []
    assert on_box(box.sshd) in ([], [".probe"])


async def test_a_full_disk_on_the_box_is_told(sshd: Sshd, pins: Pins, cache: Path) -> None:
    """A limit on file sizes stands for it: the write fails in mid-bundle."""
    sshd.more = 'ForceCommand ulimit -f 200; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    sshd.restart()
    conn = await dial(sshd, pins)
    with pytest.raises(InstallError, match=r"could not be put into .*File too large"):
        await install_agent(conn, cache=cache)
    assert on_box(sshd) == []
    conn.abort()
