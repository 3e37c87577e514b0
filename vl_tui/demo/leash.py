"""A pipe as leash: what the demo starts ends with it, also when it is killed -9.

Detached processes outlive signals and process groups; the end of a pipe's other side they can't miss.
``python -m vl_tui.demo.leash -- CMD...`` runs CMD in a process group of its own and ends the group when this process's
stdin reaches its end, or when it is told to stop; otherwise it passes CMD's exit status on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence

GRACE_S = 3.0
"""Between SIGTERM and SIGKILL."""


async def gone(fd: int) -> None:
    """Return when the other end of the pipe ``fd`` is closed, by whatever end of its holder."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        try:
            ended = not os.read(fd, 4096)
        except BlockingIOError:
            return
        except OSError:  # a socket's other end may go with a reset
            ended = True
        if ended and not over.done():
            over.set_result(None)

    os.set_blocking(fd, False)
    loop.add_reader(fd, readable)
    try:
        await over
    finally:
        loop.remove_reader(fd)


async def run(command: Sequence[str], fd: int) -> int:
    """Run ``command`` until it ends or the leash does. Returns its exit status, 128 + signal where one ended it."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, process_group=0, close_fds=True
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ended = asyncio.create_task(process.wait())
    reasons = {asyncio.create_task(gone(fd)), asyncio.create_task(_set(stop))}
    await asyncio.wait({ended, *reasons}, return_when=asyncio.FIRST_COMPLETED)
    for reason in reasons:
        reason.cancel()
    await end_group(process.pid, ended)
    status = await ended
    return status if status >= 0 else 128 - status


async def _set(event: asyncio.Event) -> None:
    await event.wait()


async def end_group(group: int, ended: asyncio.Task[int]) -> None:
    """SIGTERM to a process group, SIGKILL after the grace; what is left of the group dies with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        await asyncio.wait((ended,), timeout=GRACE_S)
        os.killpg(group, signal.SIGKILL)


def main(arguments: Sequence[str]) -> int:
    if len(arguments) < 2 or arguments[0] != "--":
        print("use: python -m vl_tui.demo.leash -- CMD...", file=sys.stderr)
        return 2
    return asyncio.run(run(arguments[1:], sys.stdin.fileno()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
