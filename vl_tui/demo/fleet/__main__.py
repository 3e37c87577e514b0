"""``python -m vl_tui.demo.fleet --state DIR --socket PATH [--config JSON] [--leash-fd N]``: run until told to stop.

Prints one line, ``{"ready": true}``, once calls are answered. Ends, with all its boxes, on SIGTERM, SIGINT, or when the
other end of the leash closes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from vl_tui.demo import leash
from vl_tui.demo.fleet.fleet import Fleet
from vl_tui.demo.fleet.server import LINE_MOST, Server
from vl_tui.demo.fleet.settings import BadSettings, Settings, read_settings
from vl_tui.providers.local import socket_address

BURY_S = 8.0
"""Boxes of a former fleet have so long to end by themselves."""
MISTAKE = 2


class Refused(Exception):
    """The fleet can't run here as asked; ``str()`` says why."""


async def run(state: Path, path: Path, settings: Settings, leash_fd: int | None) -> None:
    """Be the fleet until told to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    leashed = asyncio.create_task(leash.gone(leash_fd)) if leash_fd is not None else None
    if leashed is not None:
        leashed.add_done_callback(lambda _: stop.set())
    fleet = Fleet(state, settings)
    await fleet.bury(BURY_S)
    calls = Server(fleet)
    listening = await asyncio.start_unix_server(calls.serve, sock=_bound(path), limit=LINE_MOST)
    print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
    try:
        await stop.wait()
    finally:
        listening.close()
        path.unlink(missing_ok=True)
        await fleet.close()
        calls.hang_up()
        if leashed is not None:
            leashed.cancel()


def _bound(path: Path) -> socket.socket:
    """The fleet's socket, for this user only. Whatever is there is dead: the folder's lock is ours."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with socket_address(path) as address:
            bound.bind(address)
    finally:
        os.umask(before)
    return bound


@contextlib.contextmanager
def _sole(state: Path) -> Iterator[None]:
    """Hold the folder against a second fleet."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(state / "fleet.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another fleet runs on {state}: end it first, or name another folder.") from None
        yield
    finally:
        os.close(fd)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m vl_tui.demo.fleet")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--config", default="{}")
    parser.add_argument("--leash-fd", type=int)
    args = parser.parse_args(arguments)
    try:
        if not sys.platform.startswith("linux"):
            raise Refused("the embedded fleet needs Linux: its boxes are ended by way of /proc.")
        settings = read_settings(args.config)
        with _sole(args.state):
            asyncio.run(run(args.state.absolute(), args.socket.absolute(), settings, args.leash_fd))
    except (Refused, BadSettings) as error:
        print(f"vl-tui: {error}", file=sys.stderr)
        return MISTAKE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
