"""A host of one's own is reached as `ssh` itself would: real configuration files, hops and proxies."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.fixtures.sshd import Sshd
from tests.ssh.box import until
from vl_tui.domain.box import SshAddress
from vl_tui.ssh.connection import (
    Connection,
    HostKeyChanged,
    HostKeyUnknown,
    LinkLost,
    LoginRefused,
    SshError,
    Unreachable,
    connect,
)
from vl_tui.ssh.hostkeys import Pins

PROXY = """
import os, socket, sys, threading
print("noise: a warning of the proxy", file=sys.stderr, flush=True)
there = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def back():
    while chunk := there.recv(65536):
        print("noise: bytes came", file=sys.stderr, flush=True)
        os.write(1, chunk)
    os._exit(0)
threading.Thread(target=back).start()
while chunk := os.read(0, 65536):
    there.sendall(chunk)
os._exit(0)
"""


class Config:
    """A person's ssh configuration and known_hosts, in files of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.file, self.known = folder / "ssh_config", folder / "known_hosts"
        self.known.write_text("")
        self.pins = Pins(folder / "pins")

    def write(self, text: str) -> None:
        files = f"UserKnownHostsFile {self.known}\n  GlobalKnownHostsFile none\n  IdentityAgent none\n"
        self.file.write_text(f"{text}\nHost *\n  {files}")

    def know(self, sshd: Sshd, name: str = "") -> None:
        words = public_key(sshd)
        with self.known.open("a") as file:
            file.write(f"{name or f'[127.0.0.1]:{sshd.port}'} {words}\n")

    @contextlib.asynccontextmanager
    async def dial(self, alias: str) -> AsyncIterator[Connection]:
        conn = await connect(SshAddress(alias, alias=alias), box_id=f"own/{alias}", pins=self.pins, timeout=10)
        try:
            yield conn
        finally:
            conn.abort()

    async def refusal(self, alias: str) -> SshError:
        """The error, which must be one paragraph."""
        with pytest.raises(SshError) as caught:
            async with self.dial(alias):
                pass
        assert "\n" not in str(caught.value)
        assert alias in str(caught.value)
        return caught.value


def public_key(sshd: Sshd) -> str:
    done = subprocess.run(["ssh-keygen", "-y", "-f", str(sshd.folder / "host")], capture_output=True, text=True)
    return " ".join(done.stdout.split()[:2])


def host(name: str, sshd: Sshd, *more: str) -> str:
    lines = ["HostName 127.0.0.1 # a note", f"Port {sshd.port}", f"IdentityFile {sshd.client_key}", *more]
    return "\n  ".join([f"Host {name}", *lines]) + "\n"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    one = Config(tmp_path)
    monkeypatch.setenv("VL_SSH_CONFIG", str(one.file))
    return one


@pytest.fixture
def bastion(tmp_path: Path) -> Iterator[Sshd]:
    one = Sshd(tmp_path / "bastion")
    one.start()
    yield one
    one.stop()


async def says(conn: Connection, words: str) -> None:
    done = await conn.run(f"echo {words}", timeout=10)
    assert done.stdout.decode().strip() == words


async def test_an_alias_with_what_only_ssh_understands(sshd: Sshd, config: Config, tmp_path: Path) -> None:
    (tmp_path / "more").write_text(f"Host gpu\n  IdentityFile {tmp_path}/not-there\n  ConnectTimeout 30s\n")
    config.write(f"Include {tmp_path}/more\n" + host("gpu", sshd, "ServerAliveInterval 1m", "ForwardAgent yes"))
    config.know(sshd)
    config.known.write_text("foo\n@bad line\n" + config.known.read_text())  # lines that are none harm nobody
    async with config.dial("gpu") as conn:
        await says(conn, "hello")
    assert not config.pins.path("own/gpu").exists()  # the person's known_hosts is what counts


@pytest.mark.parametrize("hashed", [False, True])
async def test_an_own_host_must_be_known_and_its_key_unchanged(sshd: Sshd, config: Config, hashed: bool) -> None:
    config.write(host("gpu", sshd))
    unknown = await config.refusal("gpu")
    assert isinstance(unknown, HostKeyUnknown)
    assert "ssh gpu" in str(unknown)
    config.know(sshd)
    if hashed:
        subprocess.run(["ssh-keygen", "-H", "-f", str(config.known)], check=True, capture_output=True)
        assert b"127.0.0.1" not in config.known.read_bytes()
    async with config.dial("gpu") as conn:
        await says(conn, "hello")
    sshd.stop()
    sshd.new_host_key("ssh-ed25519")
    sshd.start()
    changed = await config.refusal("gpu")
    assert isinstance(changed, HostKeyChanged)
    assert "known_hosts" in str(changed)


async def test_no_known_hosts_file_is_not_no_check(sshd: Sshd, config: Config) -> None:
    config.write("UserKnownHostsFile none\nStrictHostKeyChecking no\n" + host("gpu", sshd))
    assert isinstance(await config.refusal("gpu"), HostKeyUnknown)


@pytest.mark.parametrize("name", ["*", ""])
async def test_a_revoked_key_does_not_count_as_known(sshd: Sshd, config: Config, name: str) -> None:
    config.write(host("gpu", sshd))
    config.know(sshd)
    config.know(sshd, f"@revoked {name or f'[127.0.0.1]:{sshd.port}'}")
    assert isinstance(await config.refusal("gpu"), HostKeyUnknown)


async def test_through_a_hop_and_nothing_of_it_stays(sshd: Sshd, bastion: Sshd, config: Config) -> None:
    config.write(host("gpu", sshd, "ProxyJump hop") + host("hop", bastion))
    config.know(sshd)
    config.know(bastion)
    async with config.dial("gpu") as conn:
        await says(conn, "hello")
        assert len(bastion.sessions()) == 1
    await until(lambda: not bastion.sessions() and not sshd.sessions(), "both are left")
    async with config.dial("gpu") as conn:
        sshd.kill_sessions()  # the box drops us: the hop is let go too, though nobody aborts
        await until(lambda: not bastion.sessions(), "the hop is left")
    async with config.dial("gpu") as conn:
        bastion.kill_sessions()
        with pytest.raises(LinkLost):
            await conn.run("sleep 9", timeout=5)
        await asyncio.wait_for(asyncio.shield(conn.closed), 5)


async def test_a_hop_is_checked_and_named_like_any_host(sshd: Sshd, bastion: Sshd, config: Config) -> None:
    config.write(host("gpu-hop", bastion) + host("gpu", sshd, "ProxyJump gpu-hop"))
    config.know(sshd)
    unknown = await config.refusal("gpu")
    assert isinstance(unknown, HostKeyUnknown)
    assert "ssh gpu-hop" in str(unknown)
    config.know(bastion)
    (bastion.folder / "authorized").write_text("")
    refused = await config.refusal("gpu")
    assert isinstance(refused, LoginRefused)
    assert str(bastion.port) in str(refused)
    bastion.stop()
    bastion.new_host_key("ssh-ed25519")
    bastion.start()
    assert isinstance(await config.refusal("gpu"), HostKeyChanged)
    bastion.stop()
    gone = await config.refusal("gpu")
    assert isinstance(gone, Unreachable)
    assert str(bastion.port) in str(gone)
    assert sshd.sessions() == []


async def test_hops_that_go_round_in_a_circle_are_told(sshd: Sshd, config: Config) -> None:
    config.write(host("gpu", sshd, "ProxyJump other") + host("other", sshd, "ProxyJump gpu"))
    assert "circle" in str(await config.refusal("gpu"))


def proxies(script: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(script).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


async def test_what_a_proxy_command_says_stays_out_of_the_stream(sshd: Sshd, config: Config, tmp_path: Path) -> None:
    script = tmp_path / "proxy.py"
    script.write_text(PROXY)
    beside = f"{sys.executable} -c 'import time; time.sleep(600)' {script} </dev/null >/dev/null &"
    config.write(host("gpu", sshd, f"ProxyCommand {beside} {sys.executable} {script} %p | cat"))
    config.know(sshd)
    body = bytes(range(256)) * 2000
    async with config.dial("gpu") as conn:
        for _ in range(3):
            done = await conn.run("cat", stdin=body, timeout=10)
            assert (done.stdout, done.stderr) == (body, b"")
        assert proxies(script)
    await until(lambda: not proxies(script), "all of the pipeline has ended")
    async with config.dial("gpu") as conn:
        sshd.kill_sessions()
        time.sleep(0.5)  # the loop is busy: the shell has ended, and is known to have, before the link is seen to drop
        await asyncio.wait_for(asyncio.shield(conn.closed), 5)
        await until(lambda: not proxies(script), "also when the link drops by itself", 10)


async def test_a_proxy_command_that_fails_is_told_in_its_own_words(sshd: Sshd, config: Config) -> None:
    config.write(host("gpu", sshd, r"ProxyCommand printf 'no such\n\033[31mtunnel\n' >&2; exit 1"))
    config.know(sshd)
    error = await config.refusal("gpu")
    assert isinstance(error, Unreachable)
    assert "no such" in str(error)
    assert "tunnel" in str(error)
    assert "\x1b" not in str(error)


async def test_a_file_that_ssh_refuses_is_told_in_sshs_words(config: Config) -> None:
    config.write("Host gpu\n  Pfort 22\n")
    assert "pfort" in str(await config.refusal("gpu")).lower()


@pytest.mark.parametrize("alias", ["-oProxyCommand=touch x", "a b", "x\ny"])
async def test_a_name_that_is_an_option_never_reaches_ssh(config: Config, alias: str) -> None:
    config.write("")
    with pytest.raises(Unreachable, match="is not a host"):
        async with config.dial(alias):
            pass
