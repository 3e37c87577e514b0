"""EC2's spot notice: IMDSv2, polled. Never through a proxy: the address is the machine itself."""

from __future__ import annotations

import asyncio
import calendar
import http.client
import json
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

from vl_agent.notices import Heard, Notice

DEFAULT = "http://169.254.169.254"
TOKEN_TTL_S = 21600
_TIMEOUT_S = 2.0
_MOST = 4096


def here() -> str | None:
    """The metadata service's address where this is an EC2 box, or where ``AWS_EC2_METADATA_SERVICE_ENDPOINT`` (the
    SDKs' own variable) names one; else None: the link-local address alone proves nothing, every cloud answers there."""
    named = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    if named:
        return named
    try:
        vendor = Path("/sys/class/dmi/id/sys_vendor").read_text().strip()
    except OSError:
        return None
    return DEFAULT if vendor == "Amazon EC2" else None


def poll_s() -> float:
    """Seconds between polls: 5 is AWS's own advice; ``VL_NOTICE_POLL_S`` says otherwise."""
    try:
        return max(0.2, float(os.environ.get("VL_NOTICE_POLL_S", "5")))
    except ValueError:
        return 5.0


async def watch(endpoint: str, heard: Heard) -> None:
    """Tell of a notice once; ends then. A service that does not answer is asked again: it may be a moment's fault."""
    source = _Imds(endpoint)
    while True:
        try:
            found = await asyncio.to_thread(source.instance_action)
        except (OSError, http.client.HTTPException, ValueError):
            found = None
        if found is not None:
            heard(found)
            return
        await asyncio.sleep(poll_s())


class _Imds:
    """One box's metadata service. Blocks; used in a thread."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._host, self._port = parts.hostname or "169.254.169.254", parts.port or 80
        self._token, self._until = "", 0.0

    def instance_action(self) -> Notice | None:
        """None: no notice (404). Raises ``OSError``, ``HTTPException``, ``ValueError``."""
        status, body = self._get("/latest/meta-data/spot/instance-action")
        if status == 401:  # the token has ended
            self._until = 0.0
            status, body = self._get("/latest/meta-data/spot/instance-action")
        if status != 200:
            return None
        found = json.loads(body)
        if not isinstance(found, dict):
            return None
        return Notice("aws", _unix(found.get("time")), f"spot instance-action {str(found.get('action'))[:20]}")

    def _get(self, path: str) -> tuple[int, bytes]:
        if time.monotonic() > self._until:
            status, body = self._ask(
                "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
            )
            if status != 200:
                raise OSError(f"the metadata service gives no token: {status}")
            self._token, self._until = body.decode("ascii"), time.monotonic() + TOKEN_TTL_S / 2
        return self._ask("GET", path, {"X-aws-ec2-metadata-token": self._token})

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_MOST)
        finally:
            connection.close()


def _unix(words: object) -> float | None:
    """``2026-11-24T02:18:22Z`` as unix seconds."""
    try:
        return float(calendar.timegm(time.strptime(str(words), "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None
