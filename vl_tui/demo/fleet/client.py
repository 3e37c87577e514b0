"""The embedded fleet from outside: started on a leash, and its lab's levers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from vl_tui.providers import local

START_S = 30.0
STOP_S = 15.0
CALL_S = 20.0


class FleetError(Exception):
    """The fleet did not start; ``str()`` says why."""


class Lab:
    """Breaks things, and looks into the fleet's books. Boxes are named by id, or by name (the newest of it). Raises
    ``ProviderError``: ``NotFound`` for a box that is not there or has ended."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    async def reclaim(self, name: str, notice_s: float) -> None:
        """Take it away ``notice_s`` seconds after a notice; 0: at once, without."""
        await self._ask("reclaim", box=name, notice_s=notice_s)

    async def partition(self, name: str) -> None:
        """Silence its ways out and its provider's word for it; it goes on computing."""
        await self._ask("partition", box=name)

    async def heal(self, name: str, what: str = "all") -> None:
        """Undo a partition: the ``link``, the provider's ``word``, or ``all``."""
        await self._ask("heal", box=name, what=what)

    async def boxes(self) -> list[dict[str, Any]]:
        """Every box that there ever was on this state folder, oldest first."""
        found: list[dict[str, Any]] = await self._ask("boxes")
        return found

    async def orphans(self) -> dict[str, Any]:
        """``boxes``: names of those still living; ``processes``: what outlived its box (never, or it is a bug)."""
        found: dict[str, Any] = await self._ask("orphans")
        return found

    async def lose_replies(self, count: int) -> None:
        """The next ``count`` launches are carried out, and their replies lost."""
        await self._ask("lose_replies", count=count)

    async def _ask(self, call: str, **fields: Any) -> Any:
        return await local.ask(self.socket, call, timeout_s=CALL_S, **fields)


class FleetProcess:
    """``async with FleetProcess(state, socket) as fleet``: it answers when entered, and is gone, with all its boxes,
    when left. It also ends when this process does."""

    def __init__(self, state: Path, socket: Path, settings: Mapping[str, Any] | None = None) -> None:
        """``settings``: see ``vl_tui.demo.fleet.settings.read_settings``."""
        self.state, self.socket = state, socket
        self.lab = Lab(socket)
        self.pid = 0
        self._settings = settings or {}
        self._process: asyncio.subprocess.Process | None = None
        self._leash = -1

    async def __aenter__(self) -> FleetProcess:
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        held, self._leash = os.pipe()
        try:
            await self._start(held)
        except BaseException:
            await self._stop()
            raise
        finally:
            os.close(held)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _start(self, leash_fd: int) -> None:
        log = self.state / "fleet.log"
        with log.open("ab") as out:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "vl_tui.demo.fleet", "--state", str(self.state), "--socket", str(self.socket),
                "--config", json.dumps(self._settings), "--leash-fd", str(leash_fd),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=out,
                pass_fds=(leash_fd,), start_new_session=True,
            )  # fmt: skip
        self.pid = process.pid
        assert process.stdout
        line = b""
        with contextlib.suppress(TimeoutError):
            line = await asyncio.wait_for(process.stdout.readline(), START_S)
        if not line:
            said = log.read_text(errors="replace").strip().splitlines()
            raise FleetError(f"The embedded fleet did not start: {said[-1] if said else 'it said nothing'} ({log}).")

    async def _stop(self) -> None:
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
