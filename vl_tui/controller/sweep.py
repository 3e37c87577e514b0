"""Finds boxes that no live attempt needs: the boxes first, then the records, so that a launch in between is seen.

A box is judged by run and launch number in its tags. Boxes of another fleet are not ours and are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vl_agent.protocol import LaunchEnd, ProtocolError, check_name, encode, launch_end_key, launch_key, spec_key
from vl_agent.store import Exists, NotFound, Store

from vl_tui.controller.lease import Held
from vl_tui.controller.ports import Ports
from vl_tui.domain.box import Box
from vl_tui.providers.base import Provider, ProviderError


class Sweep:
    """Remembers which boxes without a record it has seen, and since when, by the controller's clock."""

    def __init__(self, ports: Ports, lease: Held, followed: Callable[[str, int], bool]) -> None:
        """``followed``: whether a keeper sees to this launch's box itself, its end included."""
        self._ports, self._lease, self._followed = ports, lease, followed
        self._suspects: dict[tuple[str, str], float] = {}

    async def round(self) -> list[str]:
        """Look at every provider; return the names of boxes ended. Raises ``StoreError``, ``NewerController``."""
        ended: list[str] = []
        for provider in self._ports.providers.values():
            try:
                boxes = await provider.ours(self._ports.fleet)
                ended += [box.name for box in boxes if await self._orphan(provider, box)]
            except ProviderError as error:
                self._ports.say(f"sweep: {provider.name}: {error}")
        return ended

    async def _orphan(self, provider: Provider, box: Box) -> bool:
        """End ``box`` when it is given up, or stays without a record of ours past the provider's lag."""
        run, number = _owner(box.tags, self._ports.fleet)
        if box.tags.get("vl-fleet") != self._ports.fleet or box.state in ("gone", "preempted"):
            return False
        if run and self._followed(run, number):
            return False
        if run and await _there(self._ports.store, launch_end_key(run, number)):
            return await self._terminate(provider, box, "given up")
        if run and await _there(self._ports.store, launch_key(run, number)):
            self._suspects.pop((provider.name, box.id), None)
            return False
        now, key = self._ports.clock.mono(), (provider.name, box.id)
        since = self._suspects.setdefault(key, now)
        if since == now or now - since <= provider.caps.lag_s:
            return False
        if run and await _there(self._ports.store, spec_key(run)):
            await self._give_up(run, number)
        return await self._terminate(provider, box, "no record of it")

    async def _give_up(self, run: str, number: int) -> None:
        """The end record that goes before every termination: this number never gets an epoch."""
        end = LaunchEnd(number, "superseded", "a box without a launch record", self._ports.clock.wall())
        try:
            await self._ports.store.create(launch_end_key(run, number), encode(end))
        except Exists:
            return

    async def _terminate(self, provider: Provider, box: Box, why: str) -> bool:
        await self._lease.renew()
        await provider.terminate(box.id)
        self._suspects.pop((provider.name, box.id), None)
        self._ports.say(f"sweep: ended {box.name} ({box.id}) at {provider.name}: {why}")
        return True


def _owner(tags: Mapping[str, str], fleet: str) -> tuple[str, int]:
    """Run and launch number that the tags name; an empty run where they name none that could be ours."""
    run, number = tags.get("vl-run", ""), tags.get("vl-launch", "")
    try:
        check_name(run)
    except ProtocolError:
        return "", 0
    return (run, int(number)) if number.isdecimal() and len(number) < 9 else ("", 0)


async def _there(store: Store, key: str) -> bool:
    try:
        await store.get(key)
    except NotFound:
        return False
    return True
