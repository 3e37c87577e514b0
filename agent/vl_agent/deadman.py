"""How a box ends itself, in the way that really stops its provider's bill: an OS shutdown often does not.

A box that is the person's own is never ended. Keys are read from the box's environment when they are needed, and go
nowhere but into one request's header.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlencode

from vl_agent import direct, recognise
from vl_agent.direct import NoAnswer
from vl_agent.notices import gcp
from vl_agent.recognise import Place

Means = Literal["command", "shutdown", "gcp", "azure", "runpod", "vast", "slurm", "exit", "none"]

_COMMAND_S = 60.0
_REQUEST_S = 20.0
_TRIES = 5


@dataclass(frozen=True)
class Way:
    """How this box ends."""

    means: Means
    words: str
    """For a person: how, or why not."""


@dataclass(frozen=True)
class Apis:
    """Where the providers are asked."""

    gcp: str = "https://compute.googleapis.com"
    azure: str = "https://management.azure.com"
    runpod: str = "https://api.runpod.io"
    vast: str = "https://console.vast.ai"


def way(place: Place, *, owned: bool) -> Way:
    """Pure: what ``end`` will do on this box."""
    if owned:
        return Way("none", "it is the person's own: it stays on")
    if place.command and place.end in ("", "command"):
        return Way("command", "by its own command")
    if place.end == "none":
        return Way("none", "it can't end itself: its controller does")
    if place.end == "shutdown":
        return Way("shutdown", "by an OS shutdown, which terminates it")
    known: dict[str, Way] = {
        "aws": Way("none", "not launched so that a shutdown terminates it: its controller ends it"),
        "gcp": Way("gcp", "deleted by its service account, or else by an OS shutdown"),
        "azure": Way("azure", "deleted or deallocated by its managed identity: a shutdown would leave it billed"),
        "runpod": Way("runpod", "terminated by the pod's own key"),
        "vast": Way("vast", "destroyed by the container's own key"),
        "slurm": Way("slurm", "its job is cancelled"),
        "kubernetes": Way("exit", "its pod ends with the agent"),
        "gke": Way("exit", "its pod ends with the agent"),
    }
    where = place.provider or "a box that nothing tells about"
    return known.get(place.provider, Way("none", f"{where} can't end itself: its controller ends it"))


async def end(place: Place, *, owned: bool, apis: Apis | None = None) -> str:
    """End this box. Returns what went wrong, or nothing; tried a few times, for it costs money until it works."""
    means, apis = way(place, owned=owned).means, apis or Apis()
    if means in ("none", "exit"):
        return ""
    trouble = ""
    for pause in (2.0**number for number in range(_TRIES)):
        try:
            await _by(means, place, apis)
            return ""
        except (NoAnswer, OSError, ValueError, KeyError) as error:
            trouble = f"{means}: {error or type(error).__name__}"
        await asyncio.sleep(pause)
    return trouble


async def _by(means: Means, place: Place, apis: Apis) -> None:
    """Raises ``OSError`` (``NoAnswer``), ``ValueError``, ``KeyError``: it did not work."""
    if means == "command":
        await _run(place.command)
    elif means == "shutdown":
        await _shut_down()
    elif means == "slurm":
        await _run(("scancel", place.box))
    elif means == "gcp":
        await _delete_gcp(apis)
    elif means == "azure":
        await _delete_azure(apis)
    elif means == "runpod":
        await _delete_runpod(apis, quote(place.box, safe=""), _key("RUNPOD_API_KEY"))
    elif means == "vast":
        path = f"/api/v0/instances/{quote(place.box, safe='')}/"
        await _request(apis.vast, "DELETE", path, _key("CONTAINER_API_KEY"))


def _key(name: str) -> str:
    found = recognise.environment().get(name, "")
    if not found:
        raise ValueError(f"the box has no {name}")
    return found


async def _request(base: str, method: str, path: str, key: str, body: bytes = b"") -> direct.Reply:
    """404 is as good as done: it is gone, or is being ended already. Raises ``NoAnswer``."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Content-Length": str(len(body))}
    reply = await direct.ask(base, method, path, headers, body=body, timeout_s=_REQUEST_S)
    if not 200 <= reply.status < 300 and reply.status != 404:
        raise NoAnswer(f"{base} refuses: status {reply.status}")
    return reply


async def _run(words: Sequence[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
    )
    waiting = asyncio.create_task(process.wait())
    await asyncio.wait({waiting}, timeout=_COMMAND_S)
    if not waiting.done() or waiting.result() != 0:
        waiting.cancel()
        raise OSError(f"{words[0]} did not do it")


async def _shut_down() -> None:
    shutdown = ("shutdown", "-h", "now")
    await _run(shutdown if os.geteuid() == 0 else ("sudo", "-n", *shutdown))


async def _delete_runpod(apis: Apis, pod: str, key: str) -> None:
    """By REST; a pod's own key may be one that only the older interface takes."""
    try:
        await _request(apis.runpod, "DELETE", f"/v2/pods/{pod}", key)
    except NoAnswer:
        query = json.dumps({"query": f'mutation {{ podTerminate(input: {{podId: "{pod}"}}) }}'}).encode()
        reply = await _request(apis.runpod, "POST", "/graphql", key, query)
        if reply.status == 404 or json.loads(reply.body).get("errors"):
            raise NoAnswer(f"{apis.runpod} refuses") from None


async def _delete_gcp(apis: Apis) -> None:
    """By the API where the box's service account may; else a shutdown: the machine's bill ends, its disk's does not."""
    base = gcp.address()
    try:
        name, zone, project = [
            (await gcp.get(base, path)).text for path in ("instance/name", "instance/zone", "project/project-id")
        ]
        token = json.loads((await gcp.get(base, "instance/service-accounts/default/token")).body)["access_token"]
        path = "/".join(quote(part, safe="") for part in (project, "zones", zone.rpartition("/")[2], "instances", name))
        await _request(apis.gcp, "DELETE", f"/compute/v1/projects/{path}", str(token))
    except (NoAnswer, ValueError, KeyError, TypeError):
        await _shut_down()


async def _delete_azure(apis: Apis) -> None:
    """Deleted, so that disks that were made for it go as well; where the identity may not, deallocated."""
    base, headers = recognise.metadata_address(), {"Metadata": "true"}
    machine = await direct.ask(
        base, "GET", "/metadata/instance/compute/resourceId?api-version=2021-02-01&format=text", headers
    )
    query = urlencode({"api-version": "2018-02-01", "resource": "https://management.azure.com/"})
    reply = await direct.ask(base, "GET", f"/metadata/identity/oauth2/token?{query}", headers, timeout_s=_REQUEST_S)
    if machine.status != 200 or reply.status != 200:
        raise NoAnswer(f"{base}: no identity (status {reply.status})")
    token, path = str(json.loads(reply.body)["access_token"]), quote(machine.text)
    try:
        await _request(apis.azure, "DELETE", f"{path}?api-version=2024-07-01", token)
    except NoAnswer:
        await _request(apis.azure, "POST", f"{path}/deallocate?api-version=2024-07-01", token)
