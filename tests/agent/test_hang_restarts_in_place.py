"""``vl-agent run`` starts a training that hangs anew, here, once at the same place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from vl_agent.run import FAILED, FINISHED
from vl_agent.store import Store

from tests.agent.protected import Protected, head_of, kinds, one, stored_events, until

SCRIPT = Path(__file__).with_name("stuck.py")
QUICK = (
    "import vl_agent.standstill as s, vl_agent.hang as h, vl_agent.attempt as a; s.LEAST_S = s.FIRST_S = 1.0;"
    " s.HUNG_S = 3.0; h.TICK_S, h.AGAIN_S = 0.1, 0.3; a.STOP_GRACE_S = 0.5; from vl_agent.cli import script; script()"
)


async def ran(protect: Callable[..., Protected], what: str, *options: str) -> tuple[Protected, int]:
    desk = protect()
    where = desk.folder / "work"
    where.mkdir()
    words = ["run", "--store", desk.url, "--run", "char", "--checkpoints", "ckpt", *options, "--"]
    with (where / "told").open("ab") as told:
        desk.process = subprocess.Popen(
            [sys.executable, "-c", QUICK, *words, sys.executable, str(SCRIPT), what], cwd=where, env=desk.env,
            stdout=told, stderr=told, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    return desk, await desk.exit(90)


async def test_a_training_that_hangs_once_is_finished_by_the_next_attempt_here(
    protect: Callable[..., Protected], store: Store
) -> None:
    desk, code = await ran(protect, "once")
    assert code == FINISHED, (desk.folder / "work" / "told").read_text()
    assert (await head_of(store, "char")).epoch == 2
    first = await stored_events(store, "char", 1)
    assert kinds(first, "hang", "exited", "ended")[-2:] == ["exited", "ended"]
    assert one(first, "exited")["cause"] == "hang"
    assert one(await stored_events(store, "char", 2), "exited")["cause"] == "finished"


async def test_one_that_hangs_again_at_the_same_place_is_given_up(
    protect: Callable[..., Protected], store: Store
) -> None:
    desk, code = await ran(protect, "stuck_asleep")
    assert code == FAILED
    head = await head_of(store, "char")
    assert (head.epoch, head.state, head.detail.split(":")[0]) == (2, "released", "hang")
    await until(lambda: not desk.family())
