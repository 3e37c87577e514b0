"""What a person wants of a run, decided: moves, pins, rollbacks, and the stop that goes before all else. Pure."""

from __future__ import annotations

from vl_agent.protocol import Head, Intent, LaunchEndReason, LaunchWhy, Market

from vl_tui.controller.actions import Action, Answer, End, EndLaunch, Launch, Pin, Rollback, SendStop, Wait
from vl_tui.controller.place import at, avoided, launch_at, secrets_missing, want
from vl_tui.domain.money import burning_usd_hour, spent_usd
from vl_tui.domain.run import Facts, RunView
from vl_tui.policy import budget
from vl_tui.policy.candidates import best, candidates

STOP_S = 300.0
"""A box told to save and stop is fenced after so long, saved or not."""
STOP_UNHEARD_S = 30.0
"""A run to be stopped whose box can't be told is fenced after so long."""


def answer(run: RunView, facts: Facts, now: float) -> list[Action]:
    """The oldest wish that can be acted on or answered. A stop is answered when the run has stopped."""
    for intent in run.intents:
        if intent.action == "stop":
            continue
        if intent.action == "rollback" and _rolled_back(run.head, intent):
            return [Answer(intent, "done", f"rolled back to step {intent.step}")]
        launched = next((launch for launch in run.launches if launch.record.intent == intent.id), None)
        if launched is not None:
            return [Answer(intent, "done", f"box {launched.number} at {at(launched.record)}")]
        if intent.epoch != run.head.epoch:
            words = f"meant for attempt {intent.epoch}; the run is at attempt {run.head.epoch}"
            return [Answer(intent, "ignored", words)]
        if intent.action in ("pin", "unpin"):
            return [Pin(intent)]
        if intent.action == "rollback":
            return [Rollback(intent)]
        return [_move(run, facts, now, intent, "escalate" if intent.action == "escalate" else "migrate")]
    return []


def _rolled_back(head: Head, intent: Intent) -> bool:
    """An earlier controller did it and did not come to answer."""
    step = head.checkpoint.step if head.checkpoint else None
    return head.epoch == intent.epoch + 1 and head.state == "waiting" and step == intent.step


def _move(run: RunView, facts: Facts, now: float, intent: Intent, why: LaunchWhy) -> Launch | Answer | Wait:
    """The launch that a person asked for. Their word goes over market and avoided places, not over the budget."""
    if run.missing_secrets:
        return Answer(intent, "refused", secrets_missing(run))
    if not facts.offers_known:
        return Wait("asks the providers for offers")
    offers = [offer for offer in facts.offers if intent.offer in ("", offer.key)]
    if not offers:
        return Answer(intent, "refused", f"{intent.offer or 'no offer'} is not among the offers any more")
    if intent.offer:
        found = candidates(want(run, now, (offers[0].market,)), offers, exclusions={}, busy=facts.busy)
    else:
        markets: tuple[Market, ...] = ("on_demand",) if why == "escalate" else ()
        found = candidates(want(run, now, markets), offers, exclusions=avoided(run, facts), busy=facts.busy)
    chosen = best(found)
    if chosen is None:
        return Answer(intent, "refused", f"{found[0].offer.key}: {found[0].why}")
    return launch_at(chosen, found, why, intent.id)


def must_stop(run: RunView, now: float) -> str:
    """Why the run must stop, beginning with ``stopped`` or ``budget``; empty: it need not."""
    wish = next((intent for intent in run.intents if intent.action == "stop"), None)
    if wish is not None:
        return f"stopped by {wish.by or 'a person'}"
    records = [(launch.record, launch.end) for launch in run.launches]
    spent, rate = spent_usd(records, now), burning_usd_hour(records)
    if budget.exhausted(run.spec.budget_usd, spent, rate):
        return f"budget: ${spent:.2f} of ${run.spec.budget_usd or 0:.2f} spent at ${rate:.2f}/h"
    return ""


def stop(run: RunView, now: float) -> list[Action]:
    """Save, make durable, release; then the head is ended. Who can't be told, or takes too long, is fenced by that."""
    why = must_stop(run, now)
    if not why:
        return []
    holder, waited = run.holder, run.stop_wanted_s or 0.0
    reason: LaunchEndReason = "budget" if why.startswith("budget") else "stopped"
    spares: list[Action] = [EndLaunch(spare.number, reason, why) for spare in run.spares]
    if holder is None or run.head.state != "running" or holder.verdict.lost:
        return [*spares, End("stopped", why)]
    told = holder.stopping_s is not None
    limit = (budget.MARGIN_S * 0.75 if reason == "budget" else STOP_S) if told else STOP_UNHEARD_S
    if waited > limit:
        return [*spares, End("stopped", f"{why}; its last save was not waited for any longer")]
    if holder.attached and not told:
        return [*spares, SendStop(holder.number, why)]
    return [*spares, Wait(f"{why}: the box saves" if told else f"{why}: the box can't be told yet")]
