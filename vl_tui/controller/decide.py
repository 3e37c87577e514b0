"""What to do about a run now: pure, and readable top to bottom. ``reconcile`` does it and asks again.

Every tick decides from scratch, from records and witnesses; nothing is remembered between two ticks but what stands
in the store. So a controller that was killed between any two actions is followed by one that goes on.
"""

from __future__ import annotations

from collections.abc import Mapping

from vl_agent.protocol import LaunchEndReason, LaunchWhy

from vl_tui.controller import wishes
from vl_tui.controller.actions import (
    Action,
    Answer,
    Ask,
    Close,
    End,
    EndLaunch,
    Relink,
    Rollback,
    SendStart,
    SendStop,
    Start,
    Terminate,
    Wait,
)
from vl_tui.controller.place import at, avoided, launch_at, rejected, secrets_missing, want
from vl_tui.domain.run import Facts, LaunchView, RunView
from vl_tui.policy.candidates import best, candidates

ORDERLY: tuple[LaunchEndReason, ...] = (
    "finished", "failed", "stopped", "notice", "migrated", "escalated", "budget",
)  # fmt: skip
"""Ends in which the agent itself still has something to bring home."""
FLUSH_S = 15.0
"""A box whose agent ended its attempt in order gets so long to bring its journal and log into the store."""
CLAIM_S = 60.0
"""A box that was given an epoch and answers, but does not claim it, is given up after so long."""
RESTART_S = 60.0
"""A new supervisor in the place of a dead one has so long to be ready."""
EPOCHLESS_S = 3.0
"""A beat that says "waits for an epoch" may be older than the claim: believed only when it goes on so long."""
STRIKES = 3
"""Attempts in a row that failed on a box and made nothing durable: the run itself is at fault."""


def decide(run: RunView, facts: Facts, now: float) -> list[Action]:
    """The next actions for ``run``; ``now`` in unix seconds. Looked at in this order:

    1. the store is out of reach: nothing is decided;
    2. the run has ended: end records, answers, then its boxes go;
    3. a person's wishes; a run that must stop does nothing else;
    4. the attempt: is it over, or on its way to its end?
    5. the boxes on their way to the next attempt;
    6. no box, or one that will be gone: launch the next;
    and boxes given up are terminated in every case but the first.
    """
    if not facts.store_reached:
        return [Wait("the store can't be reached from here: nothing is decided until it is")]
    if run.ended:
        return _wind_down(run) + _terminations(run)
    return (wishes.answer(run, facts, now) or wishes.stop(run, now) or _attempt(run, facts, now)) + _terminations(run)


# -- 2. the run has ended ----------------------------------------------------------------------------------------


def _wind_down(run: RunView) -> list[Action]:
    head = run.head
    reasons: Mapping[str, LaunchEndReason] = {"finished": "finished", "failed": "failed"}
    stopped: LaunchEndReason = "budget" if head.detail.startswith("budget") else "stopped"
    actions: list[Action] = []
    for launch in run.live:
        holds = launch.number == run.last_attempt
        reason = reasons.get(head.state, stopped) if holds else "superseded"
        actions.append(EndLaunch(launch.number, reason, head.detail or head.state))
    for intent in run.intents:
        if intent.action == "rollback" and intent.epoch == head.epoch:
            return [Rollback(intent)]  # the run goes on from there
        wished = intent.action == "stop" and head.state == "stopped"
        actions.append(Answer(intent, "done" if wished else "ignored", f"the run has ended: {head.state}"))
    if not actions and not run.closed:
        actions.append(Close())
    return actions


def _terminations(run: RunView) -> list[Action]:
    """A box whose attempt ended in order is given time to flush; any other is ended as soon as its record stands."""
    actions: list[Action] = []
    for launch in run.launches:
        if launch.end is None or launch.terminated or launch.ending or launch.asked == "asking":
            continue
        flushed = launch.verdict.final or (launch.beat is not None and launch.beat.phase == "ended")
        if launch.end.reason not in ORDERLY or flushed or (launch.ended_s or 0.0) > FLUSH_S:
            actions.append(Terminate(launch.number))
    return actions


# -- 4. the attempt ----------------------------------------------------------------------------------------------


def _attempt(run: RunView, facts: Facts, now: float) -> list[Action]:
    """The box that holds the epoch. There are eight cases:

    1. boxes of earlier epochs still without an end record: they get one;
    2. it released the head: given up, for the reason that it told;
    3. taken by its provider: given up at once;
    4. silent past the grace: kept until the next can start (it may come back), which is launched now;
    5. its supervisor is dead, or a new one took its place: started again there, as a new epoch;
    6. started, not claimed yet: told its token, given up when it never claims;
    7. it will be gone (notice), or shall be left (migrate, escalate): the next is made ready while it goes on;
    8. it was heard and trains, and nothing speaks against it: boxes on their way to replace it are let go.
    """
    holder = run.holder
    if run.former:
        return [EndLaunch(launch.number, *_former_reason(run, launch)) for launch in run.former]
    if holder is None:
        return _next(run, facts, now)
    if run.head.state == "released":
        return [EndLaunch(holder.number, *_release_reason(run, holder))]
    if holder.verdict.lost and holder.verdict.final:
        reason: LaunchEndReason = "preempted" if holder.verdict.cause == "preempted" else "lost"
        return [EndLaunch(holder.number, reason, holder.verdict.words)]
    if holder.verdict.lost:
        return _next(run, facts, now)
    if holder.verdict.name == "supervisor_dead" or holder.epochless_s > EPOCHLESS_S:
        return _restart(run, holder)
    if run.head.state == "starting":
        return _claim(run, holder)
    if holder.noticed:
        return _next(run, facts, now)
    if _leaving(run, holder):
        return _leave(run, facts, now, holder)
    if holder.beat is None or holder.verdict.name == "suspect":
        return []
    return [EndLaunch(spare.number, "superseded", "the box that it was to replace goes on") for spare in run.spares]


def _former_reason(run: RunView, launch: LaunchView) -> tuple[LaunchEndReason, str]:
    """Why the box before lost its epoch: told by what the box after it was launched for."""
    newer = next((other for other in run.launches if other.number == run.head.launch), None)
    why = newer.record.why if newer is not None else "rollback"
    if why == "migrate":
        return "migrated", f"moved to launch {run.head.launch}"
    if why == "escalate":
        return "escalated", f"moved to launch {run.head.launch}"
    if launch.noticed:
        return "notice", "its provider takes it"
    if why == "failover":
        return "lost", launch.verdict.words if launch.verdict.lost else "silent past the grace"
    return "superseded", "its epoch is over"


def _release_reason(run: RunView, holder: LaunchView) -> tuple[LaunchEndReason, str]:
    """The agent's word begins with the cause: ``notice: ...``, ``stopped: ...``, ``killed: ...``."""
    detail = run.head.detail
    cause = detail.split(":")[0].strip()
    if cause == "notice" or (holder.noticed and cause != "stopped"):
        return "notice", detail
    if cause == "stopped":
        moved = next((spare.record.why for spare in run.spares), "failover")
        return ("escalated" if moved == "escalate" else "migrated"), detail
    if cause == "gpu_fault":  # the place's, not the run's: it is avoided for a while
        return "lost", detail
    return "failed", detail or "its command ended"


def _restart(run: RunView, holder: LaunchView) -> list[Action]:
    if holder.epochless_s > EPOCHLESS_S and holder.prepared:
        return [Start(holder.number, "restart")]
    if holder.relinked_s is None:
        return [Relink(holder.number)]
    if holder.relinked_s > RESTART_S:
        return [EndLaunch(holder.number, "lost", "its supervisor died and did not come back")]
    return [Wait("a new supervisor is started on the box")]


def _claim(run: RunView, holder: LaunchView) -> list[Action]:
    claimed = "/" in run.head.holder
    if not claimed and holder.starting_s > CLAIM_S:
        return [EndLaunch(holder.number, "prepare_failed", f"did not claim its epoch in {CLAIM_S:.0f} s")]
    if not claimed and holder.prepared:
        return [SendStart(holder.number)]
    return [Wait("the box takes its epoch over")]


def _leaving(run: RunView, holder: LaunchView) -> bool:
    moved = any(spare.record.why in ("migrate", "escalate") for spare in run.spares)
    return moved or (run.escalated and holder.record.market == "spot")


def _leave(run: RunView, facts: Facts, now: float, holder: LaunchView) -> list[Action]:
    """The old box goes on until the new one is ready, then saves and releases; one that takes too long is fenced."""
    ready = next((spare for spare in run.spares if spare.prepared), None)
    if ready is None:
        return _next(run, facts, now)
    if holder.stopping_s is None:
        if holder.attached:
            return [SendStop(holder.number, ready.record.why)]
        return [Wait("the new box is ready; the old one can't be told to save yet")]
    if holder.stopping_s > wishes.STOP_S:
        return [Start(ready.number, ready.record.why)]
    return [Wait("the old box saves; the new one is ready")]


# -- 5. boxes on their way to the next attempt -------------------------------------------------------------------


def _next(run: RunView, facts: Facts, now: float) -> list[Action]:
    """The attempt is over or will be. One box at most is on its way; of several the newest wish wins."""
    *older, spare = run.spares or (None,)
    if older:
        return [EndLaunch(old.number, "superseded", "a newer one is on its way") for old in older if old]
    if spare is None:
        return _launch_next(run, facts, now)
    trouble = _spare_trouble(spare)
    if trouble is not None:
        return [EndLaunch(spare.number, *trouble)]
    if spare.asked == "no" or (spare.asked == "unsure" and spare.settled and not spare.boxes):
        return [Ask(spare.number)]
    over = run.holder is None or run.holder.verdict.lost
    if over and spare.prepared:
        return [Start(spare.number, spare.record.why)]
    return [Wait(_on_its_way(spare) if over or not spare.prepared else "the next box is ready; the old one saves")]


def _spare_trouble(spare: LaunchView) -> tuple[LaunchEndReason, str] | None:
    deadline = 10 * spare.boot_s + 60
    beat, verdict = spare.beat, spare.verdict
    if spare.asked == "refused":
        return ("no_capacity" if spare.no_capacity else "launch_failed"), spare.refusal
    if len(spare.boxes) > 1:
        return "launch_failed", f"its provider made {len(spare.boxes)} boxes of one name"
    if verdict.lost and beat is None:
        return "no_capacity", f"taken before it answered: {verdict.words}"
    if verdict.lost or verdict.name == "supervisor_dead":
        return ("preempted" if verdict.cause == "preempted" else "prepare_failed"), f"while preparing: {verdict.words}"
    if spare.link_refusal:
        return "prepare_failed", spare.link_refusal
    if beat is not None and beat.phase == "ended":
        return "prepare_failed", beat.detail or "its supervisor ended while preparing"
    if beat is not None and beat.notice_deadline is not None:
        return "notice", "its provider takes it before it began"
    if beat is None and spare.age_s > deadline:
        return "launch_failed", f"did not answer in {deadline:.0f} s"
    return None


def _on_its_way(spare: LaunchView) -> str:
    where = f"box {spare.number} at {at(spare.record)}"
    if spare.beat is not None:
        return f"{where}: {spare.beat.detail or spare.beat.phase}"
    return f"{where}: {'boots' if spare.boxes else 'asked for'}"


# -- 6. the next box ---------------------------------------------------------------------------------------------


def _launch_next(run: RunView, facts: Facts, now: float) -> list[Action]:
    stands = run.holder is None
    verdict = _given_up(run)
    if verdict and stands:
        return [End("failed", verdict)]
    if run.missing_secrets:
        return [Wait(secrets_missing(run), stands=stands)]
    if not facts.offers_known:
        return [Wait("asks the providers for offers")]
    found = candidates(
        want(run, now, ("on_demand",) if run.escalated else ()),
        facts.offers,
        exclusions=avoided(run, facts),
        busy=facts.busy,
    )
    chosen = best(found)
    if chosen is None:
        words = f"no offer fits: {found[0].why}" if found else "no provider offers anything"
        return [Wait(words, rejected(found), stands=stands)]
    if run.no_launch_for_s > 0:
        return [Wait(f"tries {chosen.offer.key} in {run.no_launch_for_s:.0f} s")]
    return [launch_at(chosen, found, _why(run))]


def _why(run: RunView) -> LaunchWhy:
    if run.escalated and run.holder is not None and not run.holder.verdict.lost and not run.holder.noticed:
        return "escalate"
    if run.rolled_back:
        return "rollback"
    return "failover" if run.head.epoch else "submit"


def _given_up(run: RunView) -> str:
    """Failing in the same way on box after box: words for the head; empty: it is tried again. What failed before a
    person rolled back counts no more."""
    if run.rolled_back:
        return ""
    strikes: list[str] = []
    for launch in reversed(run.launches):
        if launch.end is None or launch.end.reason in ("no_capacity", "launch_failed", "superseded"):
            continue
        if launch.end.reason not in ("failed", "prepare_failed"):
            break
        strikes.append(launch.end.detail)
        if launch.record.why == "rollback":
            break
    kept = run.head.checkpoint
    progressed = kept is not None and kept.epoch > run.head.epoch - STRIKES
    if len(strikes) < STRIKES or progressed:
        return ""
    return f"gave up after {len(strikes)} boxes in a row: {strikes[0]}"
