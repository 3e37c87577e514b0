"""Carries out what ``decide`` returned. Every action may be cut off at any point and is then done again, by this
controller or the next, without a second effect: records are create-only, boxes are found by name, the head refuses an
epoch that was given already.
"""

from __future__ import annotations

import asyncio
from typing import Any

from vl_agent import head as heads
from vl_agent.protocol import (
    IntentDone,
    LaunchEnd,
    LaunchRecord,
    box_name,
    decode,
    encode,
    launch_end_key,
    launch_key,
)
from vl_agent.store import Exists, NotFound, Store, StoreError, Unanswered

from vl_tui.controller.actions import (
    Action,
    Answer,
    Ask,
    Close,
    End,
    EndLaunch,
    Launch,
    Pin,
    Relink,
    Rollback,
    SendStart,
    SendStop,
    Start,
    Terminate,
)
from vl_tui.controller.links import LinkDown
from vl_tui.controller.runstate import RunState
from vl_tui.controller.tracked import Tracked
from vl_tui.domain.box import Box, Offer
from vl_tui.domain.money import spent_usd
from vl_tui.policy.hazard import losses_per_hour
from vl_tui.providers import base
from vl_tui.store import intents

_ANSWER_S = 5.0
"""A box that does not answer a command in so long is told again later: its witnesses must be looked at meanwhile."""


class NotNow(Exception):
    """The action could not be done; it is decided anew after a pause. ``str()`` says why."""


async def perform(run: RunState, action: Action) -> None:
    """Do one action and journal it. Raises ``NotNow``, ``StoreError``, ``NewerController``."""
    match action:
        case Launch():
            await _launch(run, action)
        case Ask():
            await _ask(run, run.launches[action.launch])
        case Start():
            await _start(run, action)
        case SendStart():
            await _send(run, action.launch, command="start", epoch=run.head.epoch, token=run.head.holder)
        case SendStop():
            await _send(run, action.launch, command="stop", epoch=run.head.epoch, why=action.why, save=True)
            run.launches[action.launch].stopping_at = run.now
        case Relink():
            await drop_link(run.launches[action.launch])
            run.launches[action.launch].relinked_at = run.now
        case EndLaunch():
            await _end_launch(run, action)
        case Terminate():
            await _terminate(run, run.launches[action.launch])
        case End():
            await _end(run, action)
        case Close():
            records = [(tracked.record, tracked.end) for tracked in run.launches.values()]
            spent = round(spent_usd(records, run.ports.clock.wall()), 4)
            run.journal.tell("run_ended", run.head.epoch, state=run.head.state, detail=run.head.detail, spent_usd=spent)
        case Pin() | Rollback():
            await _touch_kept(run, action)
        case Answer():
            await _answer(run, action)
    await run.journal.flush()


# -- launches ----------------------------------------------------------------------------------------------------


async def _launch(run: RunState, action: Launch) -> None:
    """The record first: from then on the box that may come of it is known by name."""
    await run.lease.renew()
    number, offer = max(run.launches, default=0) + 1, action.offer
    record = LaunchRecord(
        number, offer.provider, offer.key, offer.place, offer.market, offer.gpu, offer.usd_hour,
        box_name(run.ports.fleet, run.spec.name, number), run.lease.generation, run.ports.clock.wall(),
        action.why, action.intent, round(_losses_per_hour(run, offer), 5),
    )  # fmt: skip
    fresh = await _create(run.ports.store, launch_key(run.spec.name, number), encode(record))
    if not fresh:  # another controller of this fleet wrote it meanwhile: follow its launch, not ours
        stored = await run.ports.store.get(launch_key(run.spec.name, number))
        record = decode(LaunchRecord, stored.data)
    run.track(record, None, fresh=fresh)
    run.decision, run.rejected = f"{action.why}: {offer.key}, {action.words}", _plain(action)
    run.tell_launched(record, action.words, _plain(action))


def _losses_per_hour(run: RunState, offer: Offer) -> float:
    met = ((tracked.record, tracked.end) for tracked in run.launches.values())
    return losses_per_hour(offer, met, run.ports.clock.wall())


def _plain(action: Launch) -> tuple[dict[str, str], ...]:
    return tuple(dict(row) for row in action.rejected)


async def _ask(run: RunState, tracked: Tracked) -> None:
    """Ask the provider in a task of its own: it may take a minute, and the run is watched meanwhile."""
    await run.lease.renew()
    provider = run.ports.providers.get(tracked.record.provider)
    if provider is None:
        tracked.asked, tracked.refusal = "refused", f"no provider {tracked.record.provider!r} is configured"
        return
    tracked.asked = "asking"
    request = base.Launch(tracked.record.name, _offer(run, tracked.record), _tags(run, tracked), run.ports.public_key)
    tracked.tasks["ask"] = asyncio.create_task(_request(run, tracked, provider, request), name=f"ask {request.name}")


def _offer(run: RunState, record: LaunchRecord) -> Offer:
    """As it is offered now, or as the record has it where the offer is not listed (any more, or yet)."""
    for offer in run.market.offers:
        if offer.key == record.offer:
            return offer
    return Offer(
        record.offer, record.provider, record.place, record.market, record.gpu, record.usd_hour, "unknown",
        record.created_at,
    )  # fmt: skip


def _tags(run: RunState, tracked: Tracked) -> dict[str, str]:
    return {"vl-fleet": run.ports.fleet, "vl-run": run.spec.name, "vl-launch": str(tracked.record.number)}


async def _request(run: RunState, tracked: Tracked, provider: base.Provider, request: base.Launch) -> None:
    """One request to its end; how it ended is in ``tracked``. Lost replies are looked for by name until the lag has
    passed (``market``), then asked again under the same name."""
    try:
        box = await provider.launch(request)
        tracked.asked = "answered"
        tracked.on_boxes((run.ports.keyed(box),), run.now)
    except base.RateLimited as error:
        await run.ports.clock.sleep(error.retry_after or 5.0)
        tracked.asked = "no"
    except (base.Unsure, base.Transient) as error:
        run.ports.say(f"{request.name}: {error}")
        tracked.asked, tracked.unsure_at = "unsure", run.now
    except base.ProviderError as error:
        tracked.asked, tracked.refusal = "refused", str(error)
        tracked.no_capacity = isinstance(error, base.NoCapacity)
    finally:
        tracked.tasks.pop("ask", None)
        run.changed()


async def _end_launch(run: RunState, action: EndLaunch) -> None:
    tracked = run.launches[action.launch]
    end = LaunchEnd(action.launch, action.reason, action.detail, run.ports.clock.wall())
    key = launch_end_key(run.spec.name, action.launch)
    if not await _create(run.ports.store, key, encode(end)):
        end = decode(LaunchEnd, (await run.ports.store.get(key)).data)
    await _given_up(run, tracked, end)


async def _given_up(run: RunState, tracked: Tracked, end: LaunchEnd) -> None:
    tracked.end, tracked.ended_at = end, run.now
    await drop_link(tracked)  # the next one only looks on: it starts no agent on a box that was given up
    run.pause_after_failure()
    run.tell_ended(end)


async def _terminate(run: RunState, tracked: Tracked) -> None:
    """End every box of the launch's name, in a task of its own: a provider that hangs must not hold up a failover."""
    assert tracked.end is not None, "a box without an end record may still get an epoch"
    await run.lease.renew()
    name = f"end {tracked.record.name}"
    tracked.tasks["terminate"] = asyncio.create_task(_end_boxes(run, tracked), name=name)


async def _end_boxes(run: RunState, tracked: Tracked) -> None:
    """Done when its provider has none left and could not have one yet unseen; else tried again after a pause."""
    provider = run.ports.providers.get(tracked.record.provider)
    try:
        if provider is None:
            raise NotNow(f"no provider {tracked.record.provider!r} is configured")
        boxes = await _living(provider, tracked)
        for box in boxes:
            await provider.terminate(box.id)
        if not boxes and run.now - tracked.unsure_at <= provider.caps.lag_s:
            raise NotNow(f"not seen at {provider.name} yet")
    except (base.ProviderError, NotNow) as error:
        run.ports.say(f"{tracked.record.name} is not ended yet: {error}")
        tracked.pause_ending(run.now, run.ports.dice)
    else:
        await drop_link(tracked)
        tracked.terminated = True
        named = boxes[0].id if boxes else (tracked.box.id if tracked.box else "")
        run.journal.tell("terminated", run.head.epoch, launch=tracked.record.number, box=named)
    finally:
        tracked.tasks.pop("terminate", None)
        run.changed()


async def _living(provider: base.Provider, tracked: Tracked) -> list[Box]:
    return [box for box in await provider.find(tracked.record.name) if box.state not in ("gone", "preempted")]


# -- the head ----------------------------------------------------------------------------------------------------


async def _start(run: RunState, action: Start) -> None:
    tracked = run.launches[action.launch]
    try:
        run.head = await heads.start(
            run.ports.store, run.spec.name, launch=action.launch, generation=run.lease.generation,
            expect_epoch=run.head.epoch,
        )  # fmt: skip
    except heads.Refused as error:
        await _look_for_end(run, tracked)
        raise NotNow(f"{run.spec.name}: {error}") from error
    tracked.relinked_at = tracked.prepared_at = None
    tracked.follow(run.head, run.now)
    run.tell_attempt(tracked.record, action.why)


async def _look_for_end(run: RunState, tracked: Tracked) -> None:
    """A request of the controller before that was late may have given the launch up: nobody waits for it then."""
    try:
        stored = await run.ports.store.get(launch_end_key(run.spec.name, tracked.record.number))
    except NotFound:
        return
    await _given_up(run, tracked, decode(LaunchEnd, stored.data))


async def _end(run: RunState, action: End) -> None:
    run.head = await heads.end(
        run.ports.store, run.spec.name, generation=run.lease.generation, state=action.state, detail=action.detail
    )


async def _touch_kept(run: RunState, action: Pin | Rollback) -> None:
    """A pin, an unpin or a rollback, and its answer."""
    intent, store, name = action.intent, run.ports.store, run.spec.name
    if intent.step is None:
        await _answer(run, Answer(intent, "refused", "no step was named"))
        return
    try:
        if isinstance(action, Pin):
            run.head = await heads.pin(store, name, step=intent.step, pinned=intent.action == "pin")
        else:
            run.head = await heads.rollback(
                store, name, generation=run.lease.generation, step=intent.step, expect_epoch=intent.epoch
            )
    except heads.Refused as error:
        await _answer(run, Answer(intent, "refused", str(error)))
        return
    await _answer(run, Answer(intent, "done", f"{intent.action}: step {intent.step}"))


async def _answer(run: RunState, action: Answer) -> None:
    intent = action.intent
    done = IntentDone(intent.id, action.result, action.detail, run.lease.generation, run.ports.clock.wall())
    if await intents.answer(run.ports.store, done):
        run.journal.tell(
            "intent", run.head.epoch, id=intent.id, action=intent.action, result=action.result, detail=action.detail
        )
    run.intents.pop(intent.id, None)


# -- boxes -------------------------------------------------------------------------------------------------------


async def _send(run: RunState, launch: int, **fields: Any) -> None:
    link = run.launches[launch].link
    if link is None:
        raise NotNow(f"launch {launch}: no link to tell it {fields['command']}")
    try:
        async with asyncio.timeout(_ANSWER_S):
            reply = await link.command(**fields)
    except (LinkDown, TimeoutError) as error:
        raise NotNow(f"launch {launch}: {error}") from error
    if not reply.ok:
        raise NotNow(f"launch {launch}: refused to {fields['command']}: {reply.detail}")


async def drop_link(tracked: Tracked) -> None:
    """End the link's task; the next round opens another where one is wanted."""
    task = tracked.tasks.pop("link", None)
    tracked.link, tracked.link_name = None, "down"
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _create(store: Store, key: str, body: bytes) -> bool:
    """Create-only. True: ours stands there, also when the answer was lost. False: something else does."""
    try:
        await store.create(key, body)
        return True
    except (Exists, Unanswered) as error:
        try:
            return (await store.get(key)).data == body
        except NotFound:
            raise StoreError(f"{key}: {error}") from error
