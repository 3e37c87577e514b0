"""Intents: what a person wants done. Create-only, answered once, create-only too."""

from __future__ import annotations

from vl_agent import protocol
from vl_agent.protocol import Intent, IntentDone, ProtocolError, decode, encode
from vl_agent.store import Exists, NotFound, Store, Unanswered

from vl_tui.store.runs import read_all


async def write(store: Store, intent: Intent) -> bool:
    """Leave an intent for the controller. False: one of that id is there already (a key pressed twice acts once)."""
    return await _create(store, protocol.intent_key(intent.id), encode(intent))


async def answer(store: Store, done: IntentDone) -> bool:
    """Answer an intent. False: it has been answered before."""
    return await _create(store, protocol.intent_done_key(done.id), encode(done))


async def answered(store: Store, intent_id: str) -> IntentDone | None:
    """The answer, once there is one."""
    try:
        return decode(IntentDone, (await store.get(protocol.intent_done_key(intent_id))).data)
    except NotFound:
        return None


async def pending(store: Store) -> list[Intent]:
    """Intents without an answer, oldest id first. One that can't be read is left where it is."""
    keys = [entry.key for entry in await store.list(protocol.INTENTS_PREFIX)]
    done = {key.removesuffix(".done.json") for key in keys if key.endswith(".done.json")}
    open_keys = [k for k in keys if k.endswith(".json") and not k.endswith(".done.json") and k[:-5] not in done]
    found = []
    for body in (await read_all(store, open_keys)).values():
        try:
            found.append(decode(Intent, body))
        except ProtocolError:
            continue
    return found


async def _create(store: Store, key: str, body: bytes) -> bool:
    try:
        await store.create(key, body)
    except Exists:
        return False
    except Unanswered:
        try:
            return (await store.get(key)).data == body
        except NotFound:
            await store.create(key, body)
    return True
