"""From ``fleet.yaml`` to providers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.fleet import RunningFleet
from vl_tui.config import FleetConfig, load_fleet
from vl_tui.providers.base import Invalid, Transient
from vl_tui.providers.registry import open_providers


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


def config(folder: Path, providers: str) -> FleetConfig:
    path = folder / "fleet.yaml"
    path.write_text(f"fleet: t\nstore: file://{folder}/store\nproviders: {providers}\n")
    return load_fleet(path)


async def test_each_entry_becomes_a_provider_of_its_name(tmp_path: Path) -> None:
    fleet = config(tmp_path, "[{kind: ssh, hosts: [gpu1, gpu2], name: desk}, {kind: local, name: nimbus}]")
    found = open_providers(fleet)
    assert [provider.name for provider in found] == ["desk", "nimbus"]
    for provider in found:
        await provider.close()


async def test_local_without_a_name_is_every_provider_of_the_fleet(tmp_path: Path, fleet: RunningFleet) -> None:
    found = open_providers(config(tmp_path, f"[{{kind: local, socket: {fleet.process.socket}}}]"))
    assert [provider.name for provider in found] == ["nimbus", "basalt"]
    assert await found[1].check()
    assert (found[0].caps.spot, found[1].caps.notice_s) == (True, 0)


async def test_names_met_twice_are_the_persons_mistake(tmp_path: Path, fleet: RunningFleet) -> None:
    entries = f"[{{kind: ssh, hosts: [gpu1], name: nimbus}}, {{kind: local, socket: {fleet.process.socket}}}]"
    with pytest.raises(Invalid, match="two providers are called 'nimbus'"):
        open_providers(config(tmp_path, entries))


def test_a_fleet_that_is_not_there_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(Transient, match="vl-tui demo"):
        open_providers(config(tmp_path, "[{kind: local}]"))
