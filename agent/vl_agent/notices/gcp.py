"""GCP: the preemption flag and maintenance events, by requests that hang until the value changes.

Without ``preemptionNoticeDuration`` the flag turns together with the shutdown; with it, up to two minutes before.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from urllib.parse import quote

from vl_agent import direct
from vl_agent.direct import NoAnswer, Reply
from vl_agent.notices import Ear, Hearing, Notice

DEFAULT = "http://169.254.169.254"
HANG_S = 60
"""How long the service is asked to hold a request."""
MAINTENANCE_S = 60.0
"""Between the maintenance event and the stop."""
_ROOT = "/computeMetadata/v1/"
_MOST_PAUSE_S = 5.0


def address() -> str:
    """The service's address: ``GCE_METADATA_HOST`` (the client libraries' own variable), or the usual one."""
    named = os.environ.get("GCE_METADATA_HOST")
    return f"http://{named}" if named else DEFAULT


async def get(base: str, path: str, *, timeout_s: float = 2.0) -> Reply:
    """Raises ``NoAnswer``, also for a reply that does not carry ``Metadata-Flavor: Google``: it is another's."""
    reply = await direct.ask(base, "GET", _ROOT + path, {"Metadata-Flavor": "Google"}, timeout_s=timeout_s)
    if reply.headers.get("metadata-flavor") != "Google":
        raise NoAnswer(f"{base}: this is not Google's metadata service")
    return reply


async def watch(base: str, ear: Ear, window_s: float) -> None:
    """Tell of what comes, for ever. ``window_s``: from the flag to the stop."""
    follows = [
        asyncio.create_task(_follow(base, "instance/preempted", _preempted(ear, window_s), Hearing("gcp", ear))),
        asyncio.create_task(_follow(base, "instance/maintenance-event", _maintenance(ear), Hearing("gcp", ear))),
    ]
    try:
        await asyncio.gather(*follows)
    finally:
        for task in follows:
            task.cancel()
        await asyncio.gather(*follows, return_exceptions=True)


def _preempted(ear: Ear, window_s: float) -> Callable[[str], None]:
    def changed(value: str) -> None:
        if value == "TRUE":
            ear.notice(Notice("gcp", time.time() + window_s, "preempted"))

    return changed


def _maintenance(ear: Ear) -> Callable[[str], None]:
    ends = False

    def changed(value: str) -> None:
        nonlocal ends
        if value == "TERMINATE_ON_HOST_MAINTENANCE":
            ends = True
            ear.notice(Notice("gcp", time.time() + MAINTENANCE_S, "host maintenance ends this box"))
        elif value == "MIGRATE_ON_HOST_MAINTENANCE":
            ear.advice("gcp", "host maintenance: this box is moved to another host and stands still meanwhile")
        elif value == "NONE" and ends:
            ends = False
            ear.withdrawn("gcp", "the host's maintenance is over")

    return changed


async def _follow(base: str, path: str, changed: Callable[[str], None], hearing: Hearing) -> None:
    """Ask with the last answer's ETag: the reply comes when the value is another. After a failure it is asked from the
    beginning."""
    etag, pause = "0", 0.5
    while True:
        began = time.monotonic()
        query = f"?wait_for_change=true&timeout_sec={HANG_S}&last_etag={quote(etag, safe='')}"
        try:
            reply = await get(base, path + query, timeout_s=HANG_S + 10.0)
            if reply.status != 200:
                raise NoAnswer(f"{base}: status {reply.status}")
        except NoAnswer as error:
            hearing.failed(str(error))
            etag = "0"
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(_MOST_PAUSE_S, pause * 2)
            continue
        hearing.works()
        pause = 0.5
        before, etag = etag, reply.headers.get("etag", "0")
        if etag != before:
            changed(reply.text)
        if etag in (before, "0") and time.monotonic() - began < 1.0:
            await asyncio.sleep(1.0)  # it does not hang: not asked in circles
