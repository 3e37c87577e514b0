"""What a box does for an SSH session: runs the command with three pipes, and tells how it ended.

The pipes are pumped by hand: asyncssh's own redirection drops the whole connection in a flood (a write after exit, a
pause and resume). No terminal is given, and nothing is killed when a link drops, as with a real sshd.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import asyncssh

CHUNK = 1 << 16
SHELL = "/bin/sh"


class Children:
    """Waits for every child of this process, adopted ones too: only so is no exit status taken from somebody."""

    def __init__(self) -> None:
        self._waited: dict[int, asyncio.Future[int]] = {}

    def watch(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.collect)

    def spawn(self, command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> tuple[Child, asyncio.Future[int]]:
        """Start ``command`` in a session of its own; the future becomes its exit status, negative for a signal."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd, env=env, start_new_session=True, bufsize=0
        )
        ended = self._waited[process.pid] = asyncio.get_running_loop().create_future()
        assert process.stdin
        assert process.stdout
        assert process.stderr
        return Child(process, process.stdin, process.stdout, process.stderr), ended

    def collect(self) -> None:
        """Take the exit status of all that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            waiter = self._waited.pop(pid, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(os.waitstatus_to_exitcode(status))


class Child:
    """A running command's pid and pipes."""

    def __init__(
        self, process: subprocess.Popen[bytes], stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]
    ) -> None:
        self.pid = process.pid
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self._process = process

    def forget(self) -> None:
        """Its status was collected: keep ``subprocess`` from asking for it again."""
        self._process.returncode = 0

    def signal_group(self, name: str) -> None:
        number = getattr(signal, f"SIG{name}", None)
        if isinstance(number, signal.Signals):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


async def serve(
    channel: asyncssh.SSHServerProcess[bytes], children: Children, home: Path, env: Mapping[str, str]
) -> None:
    """One session, from its request to its exit status."""
    command = [SHELL, "-c", channel.command] if channel.command else [SHELL]
    try:
        child, ended = children.spawn(command, home, env)
    except OSError as error:
        channel.stderr.write(f"box: {error.strerror}\n".encode())
        channel.exit(126)
        return
    feeding = asyncio.create_task(_feed(channel, child))
    outputs = [
        asyncio.create_task(_pass_on(child.stdout, channel.stdout)),
        asyncio.create_task(_pass_on(child.stderr, channel.stderr)),
    ]
    try:
        await asyncio.gather(*outputs)
        _tell(channel, await ended)
    except (OSError, asyncssh.Error):
        return  # the link is gone; the command goes on, with nobody to write to
    finally:
        for task in (feeding, *outputs):
            task.cancel()
        await asyncio.gather(feeding, *outputs, return_exceptions=True)
        child.forget()


def _tell(channel: asyncssh.SSHServerProcess[bytes], status: int) -> None:
    if status >= 0:
        channel.exit(status)
    else:
        channel.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))


async def _pass_on(source: IO[bytes], sink: asyncssh.SSHWriter[bytes]) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    try:
        while chunk := await reader.read(CHUNK):
            sink.write(chunk)
            await sink.drain()
    finally:
        transport.close()


async def _feed(channel: asyncssh.SSHServerProcess[bytes], child: Child) -> None:
    """The client's stdin and signals, until its end of file or the link's end."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, child.stdin)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        while True:
            try:
                chunk = await channel.stdin.read(CHUNK)
            except asyncssh.SignalReceived as wanted:
                child.signal_group(wanted.signal)
                continue
            except (asyncssh.BreakReceived, asyncssh.TerminalSizeChanged):
                continue
            if not chunk:
                return
            writer.write(chunk)
            await writer.drain()
    except (OSError, asyncssh.Error):
        return  # the command reads no more, or the link is gone
    finally:
        transport.close()
