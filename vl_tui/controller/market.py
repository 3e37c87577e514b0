"""What the providers say: offers, and the boxes of every launch that is followed. Asks in rounds, decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vl_tui.controller.clock import Clock
from vl_tui.controller.ports import Ports
from vl_tui.controller.tracked import Tracked
from vl_tui.domain.box import Box, Need, Offer
from vl_tui.providers.base import Provider, ProviderError

OFFERS_EVERY = 6
"""Offers are asked for once in so many rounds about boxes."""


class Market:
    """The last answers of every provider."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._offers: dict[tuple[str, str], list[Offer]] = {}
        """By provider and GPU asked for."""
        self._asked: set[tuple[str, str]] = set()
        self.complaints: dict[str, str] = {}
        """By provider: what went wrong with its last answer, for a person."""

    # -- answers --

    @property
    def offers(self) -> list[Offer]:
        found = {offer.key: offer for offers in self._offers.values() for offer in offers}
        return sorted(found.values(), key=lambda offer: offer.key)

    def offers_known(self, gpu: str) -> bool:
        """Every provider was asked for that GPU at least once, and answered or failed to."""
        return all(self.offers_known_from(name, gpu) for name in self._ports.providers)

    def offers_known_from(self, provider: str, gpu: str) -> bool:
        return (provider, gpu) in self._asked

    def offers_for(self, gpu: str) -> list[Offer]:
        return [offer for name in self._ports.providers for offer in self._offers.get((name, gpu), [])]

    def lag_s(self, provider: str) -> float:
        adapter = self._ports.providers.get(provider)
        return adapter.caps.lag_s if adapter else 0.0

    def boot_s(self, offer: str) -> float:
        return next((found.boot_s for found in self.offers if found.key == offer), 60.0)

    # -- questions, one provider at a time: one that hangs holds up nobody else --

    async def ask_offers(self, name: str, gpus: Iterable[str]) -> None:
        """For every GPU wanted. A provider that fails keeps its last answer; said once."""
        provider = self._ports.providers[name]
        for gpu in sorted(set(gpus)):
            try:
                self._offers[name, gpu] = await provider.offers(Need(gpu))
                self.complaints.pop(name, None)
            except ProviderError as error:
                if self.complaints.get(name) != str(error):
                    self._ports.say(f"{name}: {error}")
                self.complaints[name] = str(error)
            finally:
                self._asked.add((name, gpu))

    async def ask_boxes(self, name: str, followed: Sequence[Tracked]) -> None:
        """Where each launch's boxes are: by id once known, by name before. Who can't be asked says nothing."""
        await self._ask_boxes(self._ports.providers[name], [one for one in followed if one.record.provider == name])

    async def _ask_boxes(self, provider: Provider, followed: Sequence[Tracked]) -> None:
        clock = self._ports.clock
        try:
            known = {one.box.id: one for one in followed if one.box is not None}
            told = await provider.describe(sorted(known)) if known else {}
            for box_id, one in known.items():
                if box_id in told:
                    self._told(provider, one, told[box_id], clock)
            for one in followed:
                if not one.boxes and one.asked in ("unsure", "answered"):
                    boxes = await provider.find(one.record.name)
                    if boxes:
                        one.on_boxes(tuple(self._ports.keyed(box) for box in boxes), clock.mono())
                    elif clock.mono() - one.unsure_at > provider.caps.lag_s:
                        one.on_absent(clock.mono())
        except ProviderError as error:
            self._ports.say(f"{provider.name}: {error}")

    def _told(self, provider: Provider, one: Tracked, box: Box | None, clock: Clock) -> None:
        now = clock.mono()
        if box is not None:
            one.on_boxes((self._ports.keyed(box), *(other for other in one.boxes if other.id != box.id)), now)
        elif now - one.unsure_at > provider.caps.lag_s:
            one.on_absent(now)
