"""The embedded fleet's providers keep the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.fleet import RunningFleet
from tests.providers.contract import Harness, ProviderContract
from vl_tui.domain.box import Box, Need
from vl_tui.providers.base import Launch, NoCapacity, Transient, Unsure
from vl_tui.providers.local import LocalProvider


class TestLocal(ProviderContract):
    @pytest.fixture
    def at(self, fleet: RunningFleet) -> Harness:
        async def login(box: Box) -> str:
            connection = await fleet.connect(box)
            words = str((await connection.run("echo in")).stdout).strip()
            connection.abort()
            return words

        async def cut_off(box: Box) -> None:
            await fleet.lab.partition(box.id)

        return Harness(fleet.provider(), fleet.public_key, login, cut_off)

    async def test_a_launch_whose_reply_is_lost_is_unsure_and_found_by_name(
        self, at: Harness, fleet: RunningFleet
    ) -> None:
        await fleet.lab.lose_replies(1)
        with pytest.raises(Unsure):
            await at.launch()
        found = await at.provider.find("vl-t-run-1")
        assert len(found) == 1
        assert [box.id for box in await at.provider.ours("t")] == [found[0].id], "the sweep would see it"
        assert (await at.launch()).id == found[0].id

    async def test_a_full_place_has_no_capacity_and_says_so_in_its_offers(self, fleet: RunningFleet) -> None:
        provider = fleet.provider("basalt")
        offer = (await provider.offers(Need("A100:8", "spot")))[0]
        await provider.launch(Launch("vl-t-run-1", offer, {}, fleet.public_key))
        with pytest.raises(NoCapacity) as refusal:
            await provider.launch(Launch("vl-t-run-2", offer, {}, fleet.public_key))
        assert refusal.value.place == offer.place
        left = {one.place: one.available for one in await provider.offers(Need("A100:8", "spot"))}
        assert left == {"hall-1": "none", "hall-2": "low"}

    async def test_a_reclaimed_box_is_preempted_with_the_providers_words(
        self, at: Harness, fleet: RunningFleet
    ) -> None:
        box = await at.running()
        await fleet.lab.reclaim(box.name, 0)
        found = await at.state(box)
        assert found is not None
        assert (found.state, found.cause) == ("preempted", "nimbus reclaimed it without notice")


async def test_without_a_fleet_every_call_is_transient_and_says_where_it_looked(tmp_path: Path) -> None:
    provider = LocalProvider("nimbus", tmp_path / "none.sock")
    with pytest.raises(Transient, match="none.sock"):
        await provider.check()
