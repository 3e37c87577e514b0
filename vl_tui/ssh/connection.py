"""One SSH connection. The one wrapper around asyncssh: nothing else in the project opens a session.

What asyncssh does that this hides (each has a test): a command whose link drops *returns* an empty success; timeouts
do not cover opening a channel; leaving ``async with`` waits for ever in a partition; a host key of another type looks
like a lost connection. So: an exit that was not seen is ``LinkLost``, every wait has a limit, and tearing down is
``abort``, with nothing awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal as signals
import socket
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncssh

from vl_tui.domain.box import SshAddress
from vl_tui.ssh import sshconfig
from vl_tui.ssh.hostkeys import Pins, algorithms, parse_keys

KEEPALIVE_S, KEEPALIVE_COUNT = 2, 5
"""A silent partition closes the connection after about interval x (count + 1) = 12 s."""
HOP_S = 20.0
HANDSHAKES_AT_ONCE = 16
"""More at once stop the event loop for longer than they save."""
_ERRNO = re.compile(r"\[Errno (\d+)\]")
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr")

# SshError
#   Unreachable      no connection could be made; may be tried again
#   LinkLost         the connection dropped; what was asked may or may not have happened
#   LoginRefused     the box does not let us in
#   HostKeyChanged   another key than the pinned one: an alarm, never tried again
#   HostKeyUnknown   an own host that the person has not accepted yet


class SshError(Exception):
    """``str()`` is one paragraph for a person."""


class Unreachable(SshError):
    """No connection could be made now."""


class LinkLost(SshError):
    """The connection dropped or fell silent: whether the command ran is not known."""


class LoginRefused(SshError):
    """The box does not accept our user or key."""


class HostKeyChanged(SshError):
    """The box shows another host key than the pinned one: it is another machine, or somebody is in between."""


class HostKeyUnknown(SshError):
    """An own host whose key the person has not accepted."""


@dataclass(frozen=True)
class Completed:
    """A command that certainly ended."""

    exit_status: int
    """128 + signal where a signal ended it, as a shell says it."""
    stdout: bytes
    stderr: bytes


class Channel(asyncssh.SSHClientSession[bytes]):
    """A running command. ``received(chunk)`` is called on the loop for each piece of stdout."""

    def __init__(self, received: Callable[[bytes], None]) -> None:
        self._received = received
        self._chan: asyncssh.SSHClientChannel[bytes] | None = None
        self.stderr = bytearray()
        self.exit_status: int | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._chan = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if datatype is None:
            self._received(data)
        elif len(self.stderr) < 64 * 1024:
            self.stderr += data

    def exit_status_received(self, status: int) -> None:
        self.exit_status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.exit_status = 128 + getattr(signals, "SIG" + signal, 9)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def write(self, data: bytes) -> None:
        """Raises ``LinkLost``."""
        try:
            if self._chan is None or self.ended.done():
                raise BrokenPipeError
            self._chan.write(data)
        except (BrokenPipeError, OSError, asyncssh.Error):
            raise LinkLost("the channel to the box is closed") from None

    def write_eof(self) -> None:
        if self._chan is not None:
            self._chan.write_eof()

    def abort(self) -> None:
        if self._chan is not None:
            self._chan.abort()


class Connection:
    """A connection to one box. ``closed`` is done when it is gone, for whatever reason."""

    def __init__(self, conn: asyncssh.SSHClientConnection, name: str, under: Sequence[Callable[[], None]]) -> None:
        self._conn, self.name, self._under = conn, name, tuple(under)
        self.closed: asyncio.Task[None] = asyncio.create_task(conn.wait_closed())
        self.closed.add_done_callback(lambda _: _let_go(self._under))

    async def run(self, command: str, *, stdin: bytes = b"", timeout: float) -> Completed:
        """Run to the end. ``timeout`` in seconds covers everything. Raises ``LinkLost`` when the end was not seen."""
        out = bytearray()
        channel: Channel | None = None
        try:
            async with asyncio.timeout(timeout):
                channel = await self.open(command, out.extend)
                if stdin:
                    channel.write(stdin)
                channel.write_eof()
                await asyncio.shield(channel.ended)
        except TimeoutError:
            raise LinkLost(f"{self.name}: no answer within {timeout:.0f} s") from None
        except (asyncssh.Error, OSError) as error:
            raise LinkLost(f"{self.name}: {_words(error)}") from None
        finally:
            if channel is not None and not channel.ended.done():
                channel.abort()
        if channel.exit_status is None:
            raise LinkLost(f"{self.name}: the link dropped while a command ran")
        return Completed(channel.exit_status, bytes(out), bytes(channel.stderr))

    async def open(self, command: str, received: Callable[[bytes], None], *, window: int = 2 << 20) -> Channel:
        """Start a command and go on. Put a limit around it. Raises asyncssh's errors on a dead link."""
        channel = Channel(received)
        await self._conn.create_session(lambda: channel, command, encoding=None, window=window, request_pty=False)
        return channel

    def abort(self) -> None:
        """Drop the connection now; nothing to wait for."""
        self._conn.abort()
        _let_go(self._under)


class _Client(asyncssh.SSHClient):
    """Decides on a host key that is not among the known ones. It can't ask anybody: it notes the key and says no, or,
    for a launched box at first contact, pins it."""

    def __init__(self, decide: Callable[[asyncssh.SSHKey], bool]) -> None:
        self._decide = decide

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self._decide(key)


_handshakes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


async def connect(
    address: SshAddress, *, box_id: str, pins: Pins, host_keys: Sequence[str] = (), timeout: float = 20.0
) -> Connection:
    """Connect and log in within ``timeout`` seconds. ``host_keys``: public key lines that the provider told. Raises an
    ``SshError``."""
    loop = asyncio.get_running_loop()
    limit = _handshakes.setdefault(loop, asyncio.Semaphore(HANDSHAKES_AT_ONCE))
    async with limit:
        try:
            way = await sshconfig.resolve(address)
        except sshconfig.ConfigurationError as error:
            raise Unreachable(str(error)) from None
        under: list[Callable[[], None]] = []
        try:
            async with asyncio.timeout(timeout):
                tunnel = await _jumps(way, under)
                return await _dial(way, box_id, pins, host_keys, timeout, tunnel, under)
        except TimeoutError:
            _let_go(under)
            raise Unreachable(f"{_where(way)}: no answer within {timeout:.0f} s") from None
        except BaseException:
            _let_go(under)
            raise


async def _jumps(way: sshconfig.Way, under: list[Callable[[], None]]) -> asyncssh.SSHClientConnection | None:
    """Dial each ProxyJump hop ourselves, through the one before."""
    tunnel: asyncssh.SSHClientConnection | None = None
    for hop in way.jumps:
        tunnel = await _login(hop, hop.known, "", lambda key: False, HOP_S, tunnel, under)
        under.append(tunnel.abort)
    return tunnel


async def _dial(
    way: sshconfig.Way,
    box_id: str,
    pins: Pins,
    host_keys: Sequence[str],
    timeout: float,
    tunnel: asyncssh.SSHClientConnection | None,
    under: list[Callable[[], None]],
) -> Connection:
    known = parse_keys(host_keys) or (way.known if way.own else pins.get(box_id))

    def accept(key: asyncssh.SSHKey) -> bool:
        return not known and not way.own and pins.pin(box_id, key)

    conn = await _login(way, known, str(pins.path(box_id)), accept, timeout, tunnel, under)
    return Connection(conn, way.name, under)


async def _login(
    way: sshconfig.Way,
    known: Sequence[asyncssh.SSHKey],
    pin: str,
    accept: Callable[[asyncssh.SSHKey], bool],
    timeout: float,
    tunnel: asyncssh.SSHClientConnection | None,
    under: list[Callable[[], None]],
) -> asyncssh.SSHClientConnection:
    """One host, over ``tunnel`` or its ProxyCommand or directly. ``accept`` decides on a key that is not ``known``."""
    seen: list[asyncssh.SSHKey] = []

    def decide(key: asyncssh.SSHKey) -> bool:
        seen.append(key)
        return accept(key)

    proxy = await _Proxy.start(way.proxy_command, under) if way.proxy_command and tunnel is None else None
    extra: dict[str, Any] = {"sock": proxy.sock} if proxy else {"tunnel": tunnel} if tunnel else {}
    try:
        return await asyncssh.connect(
            way.host,
            port=way.port,
            username=way.user,
            config=None,
            known_hosts=(list(known), [], []),
            client_factory=lambda: _Client(decide),
            client_keys=[str(path) for path in way.keys] or None,
            agent_path=way.agent,
            agent_forwarding=False,
            server_host_key_algs=algorithms(known),
            encryption_algs=list(CIPHERS),
            compression_algs=["none"],
            keepalive_interval=KEEPALIVE_S,
            keepalive_count_max=KEEPALIVE_COUNT,
            connect_timeout=timeout,
            login_timeout=timeout,
            **extra,
        )
    except asyncssh.PermissionDenied:
        raise LoginRefused(
            f"{way.name}: {way.user}@{way.host}:{way.port} does not let us in: check the user name and that our key is"
            " in its authorized_keys."
        ) from None
    except asyncssh.HostKeyNotVerifiable:
        raise _bad_key(way, pin, known, seen) from None
    except (asyncssh.Error, OSError, ValueError, OverflowError) as error:
        if proxy is not None:
            said = await proxy.last_words()
            raise Unreachable(f"{way.name}: its ProxyCommand gave no connection: {said or _words(error)}") from None
        raise Unreachable(f"{_where(way)}: {_words(error)}") from None


class _Proxy:
    """A ProxyCommand as a socket of ours: asyncssh's own way feeds the command's stderr into the SSH stream. What it
    says on stderr is kept for the error, should there be one."""

    def __init__(self, process: asyncio.subprocess.Process, sock: socket.socket, stderr: int) -> None:
        self.sock, self._process, self._stderr = sock, process, stderr
        self._said = b""
        self._ended = False
        self._quiet = asyncio.Event()
        os.set_blocking(stderr, False)
        asyncio.get_running_loop().add_reader(stderr, self._hear)

    @classmethod
    async def start(cls, command: str, under: list[Callable[[], None]]) -> _Proxy:
        """Run ``command``; how to end it is added to ``under``."""
        mine, theirs = socket.socketpair()
        read, write = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=write,
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            mine.close()
            os.close(read)
            raise
        finally:
            theirs.close()
            os.close(write)
        mine.setblocking(False)
        proxy = cls(process, mine, read)
        under.append(proxy.end)
        return proxy

    def _hear(self) -> None:
        try:
            chunk = os.read(self._stderr, 4096)
        except BlockingIOError:
            return
        self._said = (self._said + chunk)[-2048:]
        if not chunk:
            self._deaf()

    def _deaf(self) -> None:
        if not self._quiet.is_set():
            self._quiet.set()
            asyncio.get_running_loop().remove_reader(self._stderr)
            os.close(self._stderr)

    async def last_words(self) -> str:
        """The end of what it said, once it has ended or a moment has passed."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._quiet.wait(), 1.0)
        text = " ".join(self._said.decode(errors="replace").split())
        return "".join(char for char in text if char.isprintable())[-300:]

    def end(self) -> None:
        """All of it: a shell's pipeline is more than the shell, and what stands beside it may outlive both."""
        self._deaf()
        if not self._ended:
            self._ended = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signals.SIGKILL)


def _let_go(under: Sequence[Callable[[], None]]) -> None:
    for let_go in under:
        let_go()


def _bad_key(
    way: sshconfig.Way, pin: str, known: Sequence[asyncssh.SSHKey], seen: Sequence[asyncssh.SSHKey]
) -> SshError:
    shown = seen[-1].get_fingerprint() if seen else "none"
    if not known:
        return HostKeyUnknown(
            f"{way.name}: its host key ({shown}) is not in your known_hosts: connect once with `ssh {way.name}`,"
            " compare the fingerprint and accept it."
        )
    where = "your known_hosts" if way.own else pin
    return HostKeyChanged(
        f"{way.name}: the host key has changed: {known[0].get_fingerprint()} is in {where}, {way.host}:{way.port} shows"
        f" {shown}. Nothing was sent to it. If you know why (the machine was set up anew), remove the old key there."
    )


def _where(way: sshconfig.Way) -> str:
    address = f"{way.host}:{way.port}"
    return way.name if way.name == address else f"{way.name}: {address}"


def _words(error: BaseException) -> str:
    text = str(getattr(error, "reason", "") or error) or type(error).__name__
    if isinstance(error, OSError):
        text = _system_words(error, text)
    return " ".join(text.split())[:200]


def _system_words(error: OSError, text: str) -> str:
    """The system's own word: asyncio says "Connect call failed" for every cause, and for a name with several addresses
    all of them in one text."""
    if isinstance(error, socket.gaierror):
        return error.strerror or text
    numbers = [error.errno] if error.errno else [int(number) for number in _ERRNO.findall(text)]
    told = ", ".join(dict.fromkeys(os.strerror(number) for number in numbers)) or text
    return f"{error.filename}: {told}" if error.filename else told
