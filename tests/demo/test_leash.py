"""What hangs on a leash ends when nobody holds it any more."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.fixtures.fleet import eventually
from vl_tui.demo import leash

TREE = "trap '' TERM; sleep 600 & echo $! $$; wait"
"""A command that ignores SIGTERM, with a child."""


async def start(*command: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vl_tui.demo.leash", "--", *command, stdin=pipe, stdout=pipe
    )


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


async def pids_of(process: asyncio.subprocess.Process) -> list[int]:
    assert process.stdout is not None
    return [int(word) for word in (await asyncio.wait_for(process.stdout.readline(), 10)).split()]


async def none_alive(pids: list[int]) -> bool:
    return not any(alive(pid) for pid in pids)


async def test_the_whole_group_ends_when_the_leash_is_let_go() -> None:
    process = await start("/bin/sh", "-c", TREE)
    pids = await pids_of(process)
    assert process.stdin is not None
    process.stdin.close()
    await eventually(lambda: none_alive(pids), leash.GRACE_S + 3)
    await asyncio.wait_for(process.wait(), 5)


async def test_the_group_ends_when_its_holder_is_killed() -> None:
    holder = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'vl_tui.demo.leash', '--', 'sh', '-c', 'echo $$; exec sleep 600'],"
        " stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(600)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", holder, stdout=asyncio.subprocess.PIPE)
    pids = await pids_of(process)
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    await eventually(lambda: none_alive(pids), 5)


@pytest.mark.parametrize(("command", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)])
async def test_the_commands_exit_status_is_passed_on(command: str, status: int) -> None:
    process = await start("/bin/sh", "-c", command)
    assert await asyncio.wait_for(process.wait(), 10) == status


async def test_gone_returns_when_the_other_end_closes_and_not_before() -> None:
    held, end = os.pipe()
    waiting = asyncio.create_task(leash.gone(held))
    os.write(end, b"still here")
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done
    os.close(end)
    await asyncio.wait_for(waiting, 5)
    os.close(held)
