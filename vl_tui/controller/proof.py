"""Journals "resume verified": once an attempt has done again all that the ones before it had done, or is over."""

from __future__ import annotations

from vl_agent.protocol import ENDED_STATES

from vl_tui.controller.runstate import RunState
from vl_tui.domain.verify import last_step_before, verified


async def verify(run: RunState) -> None:
    """Tell ``verified`` for every attempt whose time has come and that repeated something. Raises ``StoreError``."""
    due = [epoch for epoch in _open(run) if _over(run, epoch) or _caught_up(run, epoch)]
    if not due:
        return
    await run.journal.read()
    told = run.journal.losses
    for epoch in due:
        goal, reached = last_step_before(told, epoch), max(told.get(epoch, {}), default=0)
        if not _over(run, epoch) and (goal == 0 or reached < goal):
            run.prove_from[epoch] = max(goal, reached)  # its journal lags behind its beat, or there is nothing yet
            continue
        run.proven.add(epoch)
        found = verified(told, epoch)
        if found.repeated:
            run.journal.tell(
                "verified", epoch, repeated=found.repeated, mismatched=found.mismatched,
                first_mismatch=found.first_mismatch,
            )  # fmt: skip


def complete(run: RunState) -> bool:
    return not _open(run)


def _open(run: RunState) -> list[int]:
    """Attempts after the first that are not proven yet."""
    attempts = sorted({event.epoch for event in run.journal.told if event.kind == "attempt"})[1:]
    return [epoch for epoch in attempts if epoch not in run.proven and not run.journal.has("verified", epoch=epoch)]


def _over(run: RunState, epoch: int) -> bool:
    """Nothing more of its journal will come: its box is gone. (A fenced box that comes back later proves nothing.)"""
    if epoch == run.head.epoch and run.head.state not in ENDED_STATES:
        return False
    launch = next((e.fields.get("launch") for e in run.journal.told if e.kind == "attempt" and e.epoch == epoch), None)
    tracked = run.launches.get(launch) if isinstance(launch, int) else None
    return tracked is None or tracked.terminated


def _caught_up(run: RunState, epoch: int) -> bool:
    """Its beat is past everything that was done before it."""
    beat = run.holder.watch.beat if run.holder else None
    if epoch != run.head.epoch or beat is None or beat.epoch != epoch or beat.step is None:
        return False
    return beat.step > run.prove_from.get(epoch, 0)
