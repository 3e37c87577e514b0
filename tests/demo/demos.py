"""The demo as a person starts it: a process, its talk, its document, and what is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fixtures.fleet import eventually

ENDS_S = 400.0


class Demo:
    """One ``vl-tui demo --headless --json`` in ``state``; ``folder`` is where it is started."""

    def __init__(self, state: Path, *, seed: int, folder: Path, own: Sequence[str] = ()) -> None:
        self.state, self._seed, self._folder, self._own = state, seed, folder, own
        self.talk: list[str] = []
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *, resume: bool = False) -> None:
        again = ("--resume-state",) if resume else ()
        self.talk = []
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "vl_tui.cli", "demo", "--headless", "--json", "--seed", str(self._seed),
            "--state", str(self.state), *again, *self._own, cwd=self._folder, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "XDG_STATE_HOME": str(self.state.parent / "xdg-state")},
        )  # fmt: skip

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def says(self, words: str) -> None:
        """Until a line of its talk holds ``words``."""
        assert self.process.stderr is not None
        async with asyncio.timeout(ENDS_S):
            while True:
                line = (await self.process.stderr.readline()).decode()
                assert line, f"it ended before it said {words!r}:\n{''.join(self.talk)}"
                self.talk.append(line)
                if words in line:
                    return

    async def document(self) -> dict[str, Any]:
        """Until it ends: what it printed on stdout."""
        async with asyncio.timeout(ENDS_S):
            out, talk = await self.process.communicate()
        self.talk.append(talk.decode())
        assert self.process.returncode == 0, "".join(self.talk)[-6000:]
        found = json.loads(out)
        assert isinstance(found, dict)
        return found

    async def kill(self) -> None:
        """kill -9, and wait until nothing of it lives: ten seconds are what it promises."""
        self.process.kill()
        await self.process.wait()
        await eventually(self._is_gone, 10.0)

    async def _is_gone(self) -> bool:
        return not self.left()

    def left(self) -> list[str]:
        """Processes that have to do with its folder, by their command lines or where they are."""
        mark, found = str(self.state), []
        for proc in Path("/proc").iterdir():
            if not proc.name.isdigit() or int(proc.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                words = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if mark in words or os.readlink(proc / "cwd").startswith(mark):
                    found.append(f"{proc.name}: {words[:200]}")
        return found

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await self._process.communicate()
