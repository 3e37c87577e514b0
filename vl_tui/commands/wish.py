"""A person's wish: left in the store, the controller woken, its answer waited for. What several commands do."""

from __future__ import annotations

import asyncio
import getpass
import secrets
import socket
import sys
import time
from collections.abc import Callable

from vl_agent.protocol import Intent, IntentAction, IntentDone
from vl_agent.store import Store, Unanswered

from vl_tui.config import FleetConfig
from vl_tui.controller import process
from vl_tui.domain.safe import clean
from vl_tui.failure import FINISHED, MISTAKE, UNREACHABLE
from vl_tui.store import intents

SAY_EVERY_S = 5.0


async def leave(
    fleet: FleetConfig,
    store: Store,
    run: str,
    epoch: int,
    action: IntentAction,
    *,
    step: int | None = None,
    patience_s: float,
    waits_for: str,
) -> IntentDone | None:
    """Leave the wish and wait for its answer. None: none came in ``patience_s``, which is said; the wish stays.
    ``waits_for``: what takes so long, for the person. Raises ``StoreError``, ``ControllerFailed``."""
    intent = Intent(
        # Sorts by time, so that wishes are answered in the order in which they were made.
        id=f"{time.time_ns():020d}-{secrets.token_hex(4)}",
        run=run,
        epoch=epoch,
        action=action,
        step=step,
        by=f"{getpass.getuser()}@{socket.gethostname()}",
        at=time.time(),
    )  # fmt: skip
    await intents.write(store, intent)
    await asyncio.to_thread(process.ensure_controller, fleet.path)
    process.wake(fleet.fleet)
    answer = await _answer(store, intent, patience_s, waits_for)
    if answer is None:
        print(f"{run}: no answer in {patience_s:.0f} s. The wish stays in the store, and whichever controller runs"
              " next acts on it; `vl-tui ls` shows whether it did.", file=sys.stderr)  # fmt: skip
    return answer


def code(answer: IntentDone | None, words: Callable[[str], str]) -> int:
    """Print how it was answered; the exit code that says so."""
    if answer is None:
        return UNREACHABLE
    print(words(clean(answer.detail)))
    return FINISHED if answer.result == "done" else MISTAKE


async def _answer(store: Store, intent: Intent, patience_s: float, waits_for: str) -> IntentDone | None:
    """Wait for the answer, saying what is waited for."""
    began = time.monotonic()
    said = began
    while (waited := time.monotonic() - began) < patience_s:
        try:
            answer = await intents.answered(store, intent.id)
        except Unanswered:
            answer = None
        if answer is not None:
            return answer
        if time.monotonic() - said >= SAY_EVERY_S:
            said = time.monotonic()
            print(f"{intent.run}: {waits_for} ({waited:.0f} s)", file=sys.stderr)
        await asyncio.sleep(0.5)
    return None
