"""EC2: the spot notice and the rebalance recommendation, from IMDSv2, polled.

The recommendation comes hours before the notice, together with it, or never: it is told as advice.
"""

from __future__ import annotations

import asyncio
import calendar
import json
import os
import time

from vl_agent import direct
from vl_agent.direct import NoAnswer, Reply
from vl_agent.notices import Ear, Hearing, Notice, jittered

DEFAULT = "http://169.254.169.254"
TOKEN_TTL_S = 21600
_ACTION = "/latest/meta-data/spot/instance-action"
_REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
_HOP_LIMIT = "the metadata service gives no token: raise the instance's HttpPutResponseHopLimit to 2 for containers"


def address() -> str:
    """The service's address: ``AWS_EC2_METADATA_SERVICE_ENDPOINT`` (the SDKs' own variable), or the usual one."""
    return os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or DEFAULT


def poll_s() -> float:
    """Seconds between polls: 5 is AWS's own advice; ``VL_NOTICE_POLL_S`` says otherwise."""
    try:
        return max(0.2, float(os.environ.get("VL_NOTICE_POLL_S", "5")))
    except ValueError:
        return 5.0


async def watch(base: str, ear: Ear) -> None:
    """Tell of a notice once; ends then. A service that does not answer is asked again: it may be a moment's fault."""
    imds, hearing = Imds(base), Hearing("aws", ear)
    advised = False
    while True:
        try:
            found = _action(await imds.get(_ACTION))
            if found is not None:
                ear.notice(found)
                return
            if not advised and (await imds.get(_REBALANCE)).status == 200:
                advised = True
                ear.advice("aws", "rebalance recommendation: EC2 may take this box")
            hearing.works()
        except (NoAnswer, ValueError) as error:
            hearing.failed(str(error))
        await asyncio.sleep(jittered(poll_s()))


class Imds:
    """One box's metadata service, version 2: a token first."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._token, self._until = "", 0.0

    async def get(self, path: str) -> Reply:
        """Raises ``NoAnswer``. A token that has ended is asked for again."""
        reply = await self._get(path)
        if reply.status == 401:
            self._until = 0.0
            reply = await self._get(path)
        return reply

    async def _get(self, path: str) -> Reply:
        if time.monotonic() > self._until:
            ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
            try:
                reply = await direct.ask(self._base, "PUT", "/latest/api/token", ttl)
            except NoAnswer as error:
                raise NoAnswer(f"{_HOP_LIMIT} ({error})") from None
            if reply.status != 200 or not reply.text.isascii() or not reply.text.isprintable():
                raise NoAnswer(f"{_HOP_LIMIT} (status {reply.status})")
            self._token, self._until = reply.text, time.monotonic() + TOKEN_TTL_S / 2
        return await direct.ask(self._base, "GET", path, {"X-aws-ec2-metadata-token": self._token})


def _action(reply: Reply) -> Notice | None:
    """None: no notice (404), or nothing that is one. Raises ``ValueError``."""
    if reply.status != 200:
        return None
    found = json.loads(reply.body)
    if not isinstance(found, dict):
        return None
    action = str(found.get("action"))[:20]
    deadline = time.time() if action == "hibernate" else _unix(found.get("time"))  # hibernation begins at once
    return Notice("aws", deadline, f"spot instance-action {action}")


def _unix(words: object) -> float | None:
    """``2026-11-24T02:18:22Z`` as unix seconds."""
    try:
        return float(calendar.timegm(time.strptime(str(words), "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None
