"""The first process of a box: its SSH server, the parent of everything on it, and the end of all that.

Started by the fleet with an order on stdin, which stays open as its leash: when it closes, or on SIGTERM (the box's own
``poweroff``), every descendant is killed and the disk removed. Whatever the fleet dies of, its boxes end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from vl_tui.demo import leash
from vl_tui.demo.fleet import descendants, sessions

END_S = 6.0
"""Seconds in which what runs on a box must be gone; longer takes only a process that the kernel can't end."""


@dataclass(frozen=True)
class Order:
    """What the fleet wants of a box."""

    home: Path
    """Its disk: goes with it."""
    public_key: str
    """Who may log in."""
    env: Mapping[str, str]


def main() -> int:
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return 1  # the fleet ended before it had said what it wanted
    given = json.loads(line)
    order = Order(Path(given["home"]), given["public_key"], given["env"])
    descendants.adopt_orphans()
    return asyncio.run(live(order))


async def live(order: Order) -> int:
    """Be the box until it is to end; the exit status says whether all of it could be ended."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    children = sessions.Children()
    children.watch()
    leashed = asyncio.create_task(leash.gone(sys.stdin.fileno()))
    leashed.add_done_callback(lambda _: over.set())
    try:
        _furnish(order)
        key = asyncssh.generate_private_key("ssh-ed25519", comment=order.env.get(descendants.MARK, "box"))
        server = await _listen(order, key, children)
        told = {"port": server.get_port(), "host_key": key.export_public_key().decode().strip()}
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(told), flush=True)
        await over.wait()
    finally:
        left = descendants.end(lambda: descendants.of(os.getpid()), within_s=END_S, reap=children.collect)
        shutil.rmtree(order.home, ignore_errors=True)
        leashed.cancel()
    return 1 if left else 0


def _furnish(order: Order) -> None:
    """A home with a temporary folder, and the command with which the box ends itself."""
    (order.home / "tmp").mkdir(parents=True, exist_ok=True)
    (order.home / "bin").mkdir(exist_ok=True)
    poweroff = order.home / "bin" / "poweroff"
    poweroff.write_text(f"#!/bin/sh\nexec kill -TERM {os.getpid()}\n")
    poweroff.chmod(0o700)


async def _listen(order: Order, key: asyncssh.SSHKey, children: sessions.Children) -> asyncssh.SSHAcceptor:
    async def session(channel: asyncssh.SSHServerProcess[bytes]) -> None:
        await sessions.serve(channel, children, order.home, order.env)

    return await asyncssh.listen(
        "127.0.0.1", 0,
        server_host_keys=[key],
        authorized_client_keys=asyncssh.import_authorized_keys(order.public_key),
        process_factory=session,
        encoding=None, line_editor=False, allow_pty=False, allow_scp=False,
        agent_forwarding=False, x11_forwarding=False, server_version="vl_box",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
