"""The pretend providers' rules: who gets a box, what is told about it, and how it is taken away."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import asyncssh
from vl_agent.protocol import Market

from vl_tui.demo.fleet import descendants
from vl_tui.demo.fleet.books import Books, Entry
from vl_tui.demo.fleet.machine import BootFailed, Machine
from vl_tui.demo.fleet.settings import Place, Pretend, Settings
from vl_tui.domain.box import Availability, Box, BoxState, Offer, SshAddress
from vl_tui.providers.base import Caps, Invalid, NoCapacity, NotFound, Transient

MARKETS: tuple[Market, ...] = ("spot", "on_demand")
LAG_S = 2.0
"""A request whose caller has gone may still be carried out so long."""


class Fleet:
    """All boxes of all pretend providers. Errors are ``ProviderError``s, as a real provider's adapter raises them."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder / "boxes"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._settings = settings
        self._providers = {one.name: one for one in settings.providers}
        self._books = Books(folder / "fleet.json")
        self._machines: dict[str, Machine] = {}
        self._unreachable: set[str] = set()
        """Boxes that their provider can't speak of."""
        self._tasks: set[asyncio.Task[None]] = set()

    # -- beginning and end --

    async def bury(self, within_s: float) -> None:
        """See that no box of a former fleet on this folder lives: its boxes end with it, in a few seconds."""
        former = {entry.id: entry for entry in self._books if entry.ended_at is None}

        def wait() -> None:
            deadline = time.monotonic() + within_s
            while time.monotonic() < deadline and not former.keys().isdisjoint(descendants.all_marked().values()):
                time.sleep(0.1)

        if former:
            await asyncio.to_thread(wait)
        for entry in former.values():
            await asyncio.to_thread(Machine(entry, self._folder, self._settings).sweep)
            if entry.living:
                entry.state, entry.cause = "gone", "its fleet ended"
            entry.ended_at = time.time()
        self._books.save()

    async def close(self) -> None:
        """End every box."""
        left = [entry for entry in self._books if entry.ended_at is None]
        await asyncio.gather(*(self._end(entry, "gone", "the fleet was shut down") for entry in left))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what providers offer --

    def providers(self) -> Mapping[str, Caps]:
        return {one.name: self.caps(one.name) for one in self._settings.providers}

    def caps(self, provider: str) -> Caps:
        return Caps(spot=True, notice_s=int(self._provider(provider).notice_s), lag_s=LAG_S, self_terminate=True)

    def offers(self, provider: str, gpu: str, market: Market | None) -> list[Offer]:
        """Every place and market; the GPU is whatever is asked for."""
        one, now = self._provider(provider), time.time()
        return [
            Offer(
                f"{one.name}/{place.name}/{gpu}/{kind}", one.name, place.name, kind, gpu, place.usd_hour(kind),
                self._available(one, place, kind), now, boot_s=one.boot_s,
                reclaims_per_hour=one.reclaims_per_hour if kind == "spot" else 0.0,
            )
            for place in one.places
            for kind in MARKETS
            if market in (None, kind)
        ]  # fmt: skip

    def _available(self, one: Pretend, place: Place, market: Market) -> Availability:
        left = one.capacity - sum(
            (entry.provider, entry.place, entry.market) == (one.name, place.name, market) and entry.ended_at is None
            for entry in self._books
        )
        return "none" if left <= 0 else "low" if left == 1 else "high"

    # -- boxes --

    def launch(
        self, provider: str, name: str, place: str, market: Market, gpu: str, tags: Mapping[str, str], public_key: str
    ) -> Box:
        """The box of that name where there was ever one; else a new one, which comes up by itself."""
        one = self._provider(provider)
        for entry in self._books.named(provider, name):
            return self._box(entry)
        where = next((each for each in one.places if each.name == place), None)
        if where is None or market not in MARKETS:
            raise Invalid(f"{provider} has no {market} boxes at {place!r}.")
        try:
            asyncssh.import_authorized_keys(public_key)
        except ValueError:
            raise Invalid("The public key is not an OpenSSH key line.") from None
        if self._available(one, where, market) == "none":
            raise NoCapacity(f"{provider} has no {market} capacity at {place} now.", place=place)
        box = f"{provider}-{secrets.token_hex(4)}"
        entry = Entry(box, name, provider, place, market, gpu, where.usd_hour(market), time.time(), dict(tags))
        self._books.add(entry)
        self._machines[box] = machine = Machine(entry, self._folder, self._settings)
        self._start(self._live(one, entry, machine, public_key))
        return self._box(entry)

    def find(self, provider: str, name: str) -> list[Box]:
        self._provider(provider)
        return [self._box(entry) for entry in self._books.named(provider, name)]

    def describe(self, provider: str, ids: Sequence[str]) -> dict[str, Box | None]:
        self._provider(provider)
        entries = {box: self._books.get(box) for box in ids}
        return {
            box: self._box(entry) if entry is not None and entry.provider == provider else None
            for box, entry in entries.items()
        }

    def ours(self, provider: str, fleet: str) -> list[Box]:
        self._provider(provider)
        mine = (entry for entry in self._books if entry.provider == provider and entry.tags.get("vl-fleet") == fleet)
        return [self._box(entry) for entry in mine if entry.living]

    async def terminate(self, provider: str, box: str) -> None:
        self._provider(provider)
        entry = self._books.get(box)
        if entry is None or entry.provider != provider or not entry.living:
            return
        if box in self._unreachable:
            raise Transient(f"{provider} can't reach {entry.name} now.", "Try again later.", place=entry.place)
        await self._end(entry, "gone", "terminated as asked")

    def _box(self, entry: Entry) -> Box:
        state: BoxState = entry.state
        cause = entry.cause
        if entry.id in self._unreachable and entry.living:
            state, cause = "unknown", f"{entry.provider} can't reach it"
        address = SshAddress("127.0.0.1", entry.ssh_port, "box") if entry.ssh_port else None
        return Box(
            entry.id, entry.name, entry.place, entry.market, state, entry.usd_hour, entry.created_at, cause, address,
            (entry.host_key,) if entry.host_key else (), entry.tags,
        )  # fmt: skip

    async def _live(self, one: Pretend, entry: Entry, machine: Machine, public_key: str) -> None:
        """A box's life as far as nobody takes it away: up, then on until it ends itself."""
        try:
            await machine.boot(public_key, one.boot_s * random.uniform(1.0, 1.2))
        except BootFailed as error:
            await self._end(entry, "gone", str(error))
            return
        if not entry.living:
            return
        entry.state = "running"
        self._books.save()
        if one.reclaims_per_hour > 0 and entry.market == "spot":
            self._start(self._reclaim_some_time(one, entry))
        await machine.gone.wait()
        await self._end(entry, "gone", "it ended by itself")

    async def _reclaim_some_time(self, one: Pretend, entry: Entry) -> None:
        await asyncio.sleep(random.expovariate(one.reclaims_per_hour / 3600))
        await self.reclaim(entry.id, one.notice_s)

    async def _end(self, entry: Entry, state: BoxState, cause: str) -> None:
        """End a living box; of several callers the first one's words stand, and all return when it is over."""
        if entry.living:
            entry.state, entry.cause = state, cause
            self._books.save()
        machine = self._machines.get(entry.id)
        if machine is not None:
            await machine.end()
        if entry.ended_at is None:
            entry.ended_at = time.time()
            self._books.save()

    # -- the lab's levers --

    async def reclaim(self, box: str, notice_s: float) -> None:
        """Take a box away: at once, or ``notice_s`` seconds after a notice in its metadata."""
        entry, machine = self._machine(box)
        if notice_s <= 0:
            await self._end(entry, "preempted", f"{entry.provider} reclaimed it without notice")
            return
        machine.metadata.give_notice(time.time() + notice_s)
        self._start(self._reclaim_later(entry, notice_s))

    async def _reclaim_later(self, entry: Entry, notice_s: float) -> None:
        await asyncio.sleep(notice_s)
        await self._end(entry, "preempted", f"{entry.provider} reclaimed it {notice_s:g} s after a notice")

    def partition(self, box: str) -> None:
        """Cut a box and its provider's word off; it goes on computing."""
        entry, machine = self._machine(box)
        machine.silence()
        self._unreachable.add(entry.id)

    def heal(self, box: str, what: Literal["link", "word", "all"]) -> None:
        """Undo a partition, or half of it. A box that has ended meanwhile needs none."""
        entry = self._named(box)
        machine = self._machines.get(entry.id)
        if what in ("link", "all") and machine is not None:
            machine.resume()
        if what in ("word", "all"):
            self._unreachable.discard(entry.id)

    async def boxes(self) -> list[dict[str, Any]]:
        """Every box ever, oldest first, with the pids living on it. Times are unix seconds."""
        marks = await asyncio.to_thread(descendants.all_marked)
        rows = []
        for entry in self._books:
            pids = sorted(pid for pid, box in marks.items() if box == entry.id)
            rows.append(
                {
                    "id": entry.id, "name": entry.name, "provider": entry.provider, "place": entry.place,
                    "market": entry.market, "state": entry.state, "cause": entry.cause, "tags": dict(entry.tags),
                    "created": entry.created_at, "ended": entry.ended_at, "alive": entry.ended_at is None,
                    "partitioned": entry.id in self._unreachable, "pids": pids,
                }
            )  # fmt: skip
        return rows

    async def orphans(self) -> dict[str, Any]:
        """Boxes still living, and processes that live although their box does not."""
        rows = await self.boxes()
        return {
            "boxes": [row["name"] for row in rows if row["alive"]],
            "processes": [{"box": row["id"], "pid": pid} for row in rows if not row["alive"] for pid in row["pids"]],
        }

    # -- looking up --

    def _provider(self, name: str) -> Pretend:
        try:
            return self._providers[name]
        except KeyError:
            known = ", ".join(self._providers)
            raise Invalid(f"The embedded fleet has no provider {name!r}.", f"It has {known}.") from None

    def _named(self, box: str) -> Entry:
        """By id, or the newest of that name."""
        found = self._books.get(box) or next((e for e in reversed(list(self._books)) if e.name == box), None)
        if found is None:
            raise NotFound(f"There was never a box {box!r}.")
        return found

    def _machine(self, box: str) -> tuple[Entry, Machine]:
        entry = self._named(box)
        machine = self._machines.get(entry.id)
        if machine is None or not entry.living:
            raise NotFound(f"{entry.name} has ended: {entry.cause}.")
        return entry, machine

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
