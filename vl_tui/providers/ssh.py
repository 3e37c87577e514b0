"""Boxes that the person already has, asked over SSH: one run a box, locked on the box itself, never powered off.

A box's id is ``host/name``: the host lent to one launch. What is done there is in ``onbox``; here are the way there and
what its answers, or their absence, mean. A host that can't be reached is ``unknown``, never gone.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import shlex
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from vl_tui.domain.box import Availability, Box, BoxState, Need, Offer, SshAddress
from vl_tui.providers.base import Auth, Caps, Invalid, Launch, NoCapacity, Transient, Unsure
from vl_tui.ssh.connection import (
    Connection,
    HostKeyChanged,
    HostKeyUnknown,
    LinkLost,
    LoginRefused,
    SshError,
    Unreachable,
    connect,
)
from vl_tui.ssh.hostkeys import Pins

CONNECT_S = 8.0
ASK_S = 10.0
END_S = 25.0
"""Ending a run's processes may take a box so long."""
BOOT_S = 2.0
"""What an owned box needs until it answers: it runs already."""
_START = (
    "import sys,json;r=json.loads(sys.stdin.readline());n={'__name__':'onbox'};"
    "exec(compile(r['source'],'onbox','exec'),n);print();print(r['nonce']+json.dumps(n['answer'](r)),flush=True)"
)


class SshProvider:
    """Hosts of one ``{kind: ssh}`` entry. Connections are kept until ``close``."""

    caps = Caps()

    def __init__(self, name: str, hosts: Mapping[str, SshAddress], usd_hour: float, pins: Pins) -> None:
        """``hosts``: by the name that the person gave them."""
        self.name = name
        self._hosts = {host: _Host(host, address, pins) for host, address in hosts.items()}
        self._usd_hour = usd_hour

    async def check(self) -> str:
        """That at least one host lets us in with nobody there, and that none refuses us."""
        seen = await self._each(lambda host: host.ask("look"))
        failed = {host: error for host, error in seen.items() if isinstance(error, SshError)}
        for error in failed.values():
            if isinstance(error, LoginRefused | HostKeyChanged | HostKeyUnknown):
                raise Auth(str(error))
        if len(failed) == len(seen):
            told = ". ".join(str(error).rstrip(".") for error in failed.values())
            tried = _by_hand(self._hosts[next(iter(failed))].address)
            raise Transient(f"{told}. See that `{tried}` works from here, or correct fleet.yaml.")
        words = f"{len(seen) - len(failed)} of {len(seen)} hosts let us in"
        return " ".join([words, *(f"({error})" for error in failed.values())])

    async def offers(self, need: Need) -> list[Offer]:
        """Every host, those that can't be had with the reason."""
        if need.market not in (None, "owned"):
            return []
        seen = await self._each(lambda host: host.ask("look"))
        return [self._offer(host, need.gpu, answer) for host, answer in seen.items()]

    def _offer(self, host: str, gpu: str, answer: dict[str, Any] | SshError) -> Offer:
        why = str(answer) if isinstance(answer, SshError) else _taken(host, answer) or _unfit(host, gpu, answer)
        available: Availability = "none" if why else "high"
        return Offer(
            f"{self.name}/{host}/{gpu}/owned", self.name, host, "owned", gpu, self._usd_hour, available, time.time(),
            boot_s=BOOT_S, note=why,
        )  # fmt: skip

    async def launch(self, launch: Launch) -> Box:
        host = self._host(launch.offer.place)
        owner = {"name": launch.name, "tags": dict(launch.tags)}
        try:
            answer = await host.ask("take", owner=owner)
        except LinkLost as error:
            raise Unsure(str(error), place=host.name) from None
        except (LoginRefused, HostKeyChanged, HostKeyUnknown) as error:
            raise Auth(str(error), place=host.name) from None
        except SshError as error:  # nothing was sent
            raise NoCapacity(str(error), place=host.name) from None
        box = self._box(host, launch.name, answer)
        if box is None:
            raise NoCapacity(_taken(host.name, answer), place=host.name)
        return box

    async def find(self, name: str) -> list[Box]:
        seen = await self._each(lambda host: host.ask("look"))
        found = [
            self._box(self._hosts[host], name, answer) for host, answer in seen.items() if isinstance(answer, dict)
        ]
        boxes = [box for box in found if box is not None]
        silent = [str(error) for error in seen.values() if isinstance(error, SshError)]
        if silent and not boxes:
            raise Transient(f"{name} is on none of the hosts that answer. {' '.join(silent)}")
        return boxes

    async def describe(self, ids: Sequence[str]) -> dict[str, Box | None]:
        wanted = {box: box.rpartition("/") for box in ids}
        hosts = {host for host, _, _ in wanted.values() if host in self._hosts}
        seen = await self._each(lambda host: host.ask("look"), hosts)
        return {
            box: self._described(host, name, seen[host]) if host in seen else None
            for box, (host, _, name) in wanted.items()
        }

    def _described(self, host: str, name: str, answer: dict[str, Any] | SshError) -> Box | None:
        if isinstance(answer, SshError):
            return self._as_box(self._hosts[host], name, "unknown", str(answer), {})
        return self._box(self._hosts[host], name, answer)

    async def ours(self, fleet: str) -> list[Box]:
        """Of the hosts that answer: what can't be seen is seen next time."""
        seen = await self._each(lambda host: host.ask("look"))
        found = []
        for host, answer in seen.items():
            owner = answer.get("owner") if isinstance(answer, dict) else None
            if owner and owner["tags"].get("vl-fleet") == fleet:
                found.append(self._as_box(self._hosts[host], owner["name"], "running", "", owner))
        return found

    async def terminate(self, box_id: str) -> None:
        """End the launch's supervisor and training, and give the box back. The machine itself stays as it is."""
        where, _, name = box_id.rpartition("/")
        if where not in self._hosts:
            return
        try:
            answer = await self._hosts[where].ask("release", within_s=END_S, name=name)
        except SshError as error:
            raise Transient(str(error), "It is tried again.", place=where) from None
        if answer.get("left"):
            raise Transient(f"{where}: processes {answer['left']} of {name} do not end.", place=where)

    async def close(self) -> None:
        for host in self._hosts.values():
            host.drop()

    # -- what answers mean --

    def _box(self, host: _Host, name: str, answer: dict[str, Any]) -> Box | None:
        """The launch ``name`` on this host: its holder now, or one that had it. None: never heard of here."""
        owner, past = answer["owner"], answer["past"]
        if owner and owner["name"] == name:
            return self._as_box(host, name, "running", "", owner)
        if name in past:
            return self._as_box(host, name, "gone", past[name].get("cause", ""), past[name])
        return None

    def _as_box(self, host: _Host, name: str, state: BoxState, cause: str, owner: Mapping[str, Any]) -> Box:
        return Box(
            f"{host.name}/{name}", name, host.name, "owned", state, self._usd_hour, owner.get("at", 0.0), cause,
            host.address, (), owner.get("tags", {}),
        )  # fmt: skip

    async def _each(
        self, ask: Callable[[_Host], Awaitable[dict[str, Any]]], only: set[str] | None = None
    ) -> dict[str, dict[str, Any] | SshError]:
        """Ask all hosts at once; an ``SshError`` is an answer too."""

        async def one(host: _Host) -> dict[str, Any] | SshError:
            try:
                return await ask(host)
            except SshError as error:
                return error

        hosts = [host for name, host in self._hosts.items() if only is None or name in only]
        answers = await asyncio.gather(*(one(host) for host in hosts))
        return {host.name: answer for host, answer in zip(hosts, answers, strict=True)}

    def _host(self, name: str) -> _Host:
        if name not in self._hosts:
            raise Invalid(f"{self.name} has no host {name!r}.", "Name it under `hosts` in fleet.yaml.", place=name)
        return self._hosts[name]


def _by_hand(address: SshAddress) -> str:
    """What a person types to get there."""
    where = address.alias or (f"{address.user}@{address.host}" if address.user else address.host)
    port = [] if address.alias or address.port == 22 else ["-p", str(address.port)]
    return shlex.join(["ssh", *port, where])


class _Host:
    """One host and the connection to it. Requests go one after the other."""

    def __init__(self, name: str, address: SshAddress, pins: Pins) -> None:
        self.name, self.address = name, address
        self._pins = pins
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    async def ask(self, do: str, *, within_s: float = ASK_S, **fields: Any) -> dict[str, Any]:
        """One request to ``onbox`` there. Raises ``LinkLost`` when it may have been done without an answer, another
        ``SshError`` when it was certainly not."""
        nonce = secrets.token_hex(8)
        source = (resources.files("vl_tui.providers") / "onbox.py").read_text()
        request = json.dumps({"do": do, "nonce": nonce, "source": source, **fields})
        command = f"exec /bin/sh -c {shlex.quote(f'exec python3 -I -c {shlex.quote(_START)}')}"
        async with self._turn:
            connection = await self._connected()
            try:
                done = await connection.run(command, stdin=request.encode() + b"\n", timeout=within_s)
            except LinkLost:
                self.drop()
                raise
        return self._answer(done.exit_status, done.stdout, done.stderr, nonce)

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed.done():
            self._connection = await connect(self.address, box_id=self.name, pins=self._pins, timeout=CONNECT_S)
        return self._connection

    def _answer(self, status: int, out: bytes, err: bytes, nonce: str) -> dict[str, Any]:
        for line in out.decode(errors="replace").splitlines():
            if line.startswith(nonce):
                return parse_answer(self.name, line.removeprefix(nonce))
        said = err.decode(errors="replace").strip().splitlines()
        words = "there is no python3" if status == 127 else (said[-1] if said else f"exit status {status}")
        raise Unreachable(f"{self.name}: it can't be used: {words[:300]}")

    def drop(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None


def parse_answer(host: str, said: str) -> dict[str, Any]:
    """What ``onbox`` answered there, every type checked: a box may say anything. Raises ``Unreachable``."""
    try:
        found = json.loads(said)
        owners = [found["owner"], *found["past"].values()]
        for owner in owners[0 if owners[0] else 1 :]:
            texts = (owner["name"], owner.get("cause", ""), *owner["tags"], *owner["tags"].values())
            if not all(isinstance(text, str) for text in texts) or not math.isfinite(owner.get("at", 0.0)):
                raise TypeError
        for name, kind in (("gpus", str), ("gpu_pids", str), ("left", int)):
            listed = found.get(name, [])
            if not isinstance(listed, list) or not all(isinstance(one, kind) for one in listed):
                raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise Unreachable(f"{host}: it can't be used: its answer can't be read: {said[:100]!r}") from None
    return dict(found)


def _taken(host: str, answer: Mapping[str, Any]) -> str:
    """Who has the box; empty when nobody has."""
    owner = answer["owner"]
    if not owner:
        return ""
    tags = owner["tags"]
    return f"{host} is lent to {tags.get('vl-run', 'a run')} of fleet {tags.get('vl-fleet', '?')} ({owner['name']})"


def _unfit(host: str, gpu: str, answer: Mapping[str, Any]) -> str:
    """Why a free box does not do for ``gpu``, which is ``cpu``, ``any``, or part of a GPU's name, and a number."""
    kind, _, number = gpu.partition(":")
    if kind.lower() in ("", "cpu", "none"):
        return ""
    fit = [name for name in answer["gpus"] if kind.lower() in ("any", "gpu") or kind.lower() in name.lower()]
    if len(fit) < int(number if number.isdecimal() else "1"):
        return f"{host} has {', '.join(answer['gpus']) or 'no GPU'}, not {gpu}"
    return f"{host}: its GPUs are in use ({len(answer['gpu_pids'])} processes)" if answer["gpu_pids"] else ""
