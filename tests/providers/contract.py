"""What every provider must pass: a test class per adapter inherits this and says how one is had."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from tests.fixtures.fleet import eventually
from vl_tui.domain.box import Box, Need, Offer
from vl_tui.providers.base import Launch, Provider, Transient

NEED = Need("cpu:1")


@dataclass
class Harness:
    """An adapter with a real other end."""

    provider: Provider
    public_key: str
    login: Callable[[Box], Awaitable[str]]
    """Log in at the box with the key given at launch; returns what ``echo in`` prints there."""
    cut_off: Callable[[Box], Awaitable[None]]
    """Make the provider unable to reach the box."""
    tags: dict[str, str] = field(default_factory=lambda: {"vl-fleet": "t", "vl-run": "run", "vl-launch": "1"})

    async def offer(self) -> Offer:
        """The first that can be had, or else the first: a repeated launch asks for what it took itself."""
        offers = await self.provider.offers(NEED)
        return next((offer for offer in offers if offer.available != "none"), offers[0])

    async def launch(self, name: str = "vl-t-run-1") -> Box:
        return await self.provider.launch(Launch(name, await self.offer(), self.tags, self.public_key))

    async def running(self, name: str = "vl-t-run-1") -> Box:
        box = await self.launch(name)

        async def is_up() -> bool:
            found = await self.state(box)
            return found is not None and found.state == "running"

        await eventually(is_up, 20)
        found = await self.state(box)
        assert found is not None
        return found

    async def state(self, box: Box) -> Box | None:
        return (await self.provider.describe([box.id]))[box.id]


class ProviderContract:
    """Inherit it and give a fixture ``at`` with a ``Harness``."""

    async def test_check_proves_access_in_one_line(self, at: Harness) -> None:
        words = await at.provider.check()
        assert words
        assert "\n" not in words

    async def test_offers_are_of_this_provider_fit_the_need_and_have_keys_of_their_own(self, at: Harness) -> None:
        offers = await at.provider.offers(NEED)
        assert offers
        assert {offer.provider for offer in offers} == {at.provider.name}
        assert {offer.gpu for offer in offers} == {NEED.gpu}
        assert len({offer.key for offer in offers}) == len(offers)
        assert all(offer.key == f"{offer.provider}/{offer.place}/{offer.gpu}/{offer.market}" for offer in offers)

    async def test_a_launched_box_comes_up_and_lets_the_key_in(self, at: Harness) -> None:
        box = await at.running()
        assert box.ssh is not None
        assert await at.login(box) == "in"
        assert dict(box.tags) == at.tags

    async def test_a_launch_repeated_by_name_is_the_same_box(self, at: Harness) -> None:
        first = await at.running()
        again = await at.launch()
        assert again.id == first.id
        assert [box.id for box in await at.provider.find(first.name)] == [first.id]

    async def test_launches_of_one_name_at_once_are_one_box(self, at: Harness) -> None:
        boxes = await asyncio.gather(*(at.launch() for _ in range(4)))
        assert len({box.id for box in boxes}) == 1
        assert len(await at.provider.find("vl-t-run-1")) == 1

    async def test_a_name_never_launched_is_not_found_and_an_unknown_id_is_no_box(self, at: Harness) -> None:
        assert await at.provider.find("vl-t-run-9") == []
        assert await at.provider.describe(["nowhere/vl-t-run-9"]) == {"nowhere/vl-t-run-9": None}

    async def test_ours_are_the_living_boxes_of_the_fleet_asked_for(self, at: Harness) -> None:
        box = await at.launch()
        assert [found.id for found in await at.provider.ours("t")] == [box.id]
        assert await at.provider.ours("another") == []
        await at.provider.terminate(box.id)
        assert await at.provider.ours("t") == []

    async def test_a_terminated_box_is_gone_and_ending_it_again_or_one_that_never_was_is_success(
        self, at: Harness
    ) -> None:
        box = await at.running()
        await at.provider.terminate(box.id)
        found = await at.state(box)
        assert found is None or found.state == "gone"
        await at.provider.terminate(box.id)
        await at.provider.terminate("nowhere/vl-t-run-9")

    async def test_a_name_that_was_terminated_never_comes_to_life_again(self, at: Harness) -> None:
        box = await at.running()
        await at.provider.terminate(box.id)
        again = await at.launch()
        assert again.id == box.id
        assert again.state == "gone"
        assert await at.provider.ours("t") == []

    async def test_a_box_out_of_reach_is_unknown_never_gone_and_is_not_said_to_be_terminated(self, at: Harness) -> None:
        box = await at.running()
        await at.cut_off(box)
        found = await at.state(box)
        assert found is not None
        assert found.state == "unknown"
        with pytest.raises(Transient):
            await at.provider.terminate(box.id)
