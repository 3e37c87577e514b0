"""What the pretend providers have and how they behave: read from the JSON given to the fleet at its start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from vl_agent.protocol import Market


class BadSettings(ValueError):
    """The JSON is not settings of a fleet; ``str()`` says where."""


@dataclass(frozen=True)
class Place:
    """One zone of a pretend provider, with its prices in USD per box-hour."""

    name: str
    spot_usd_hour: float
    on_demand_usd_hour: float

    def usd_hour(self, market: Market) -> float:
        return self.spot_usd_hour if market == "spot" else self.on_demand_usd_hour


@dataclass(frozen=True)
class Pretend:
    """One pretend provider."""

    name: str
    places: tuple[Place, ...]
    boot_s: float = 2.0
    """Seconds from launch to a box that answers over SSH; a box is never quicker, and varies by a fifth."""
    notice_s: float = 30.0
    """Between the notice and the reclaim; 0: none is given."""
    reclaims_per_hour: float = 0.0
    """Of each spot box; told in offers, and really done."""
    capacity: int = 4
    """Boxes at a time in each place and market."""


@dataclass(frozen=True)
class Settings:
    """The whole fleet."""

    providers: tuple[Pretend, ...]
    store: tuple[str, int] | None = None
    """Host and port of the object store: what each box's own relay leads to."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to every box's environment."""


DEFAULT_PROVIDERS = (
    Pretend("nimbus", (Place("east", 0.42, 1.29), Place("west", 0.47, 1.35)), boot_s=2.0, notice_s=30),
    Pretend("aurora", (Place("north", 0.55, 1.10), Place("south", 0.58, 1.15)), boot_s=3.0, notice_s=30),
    Pretend("basalt", (Place("hall-1", 0.36, 0.99), Place("hall-2", 0.39, 1.05)), boot_s=4.0, notice_s=0),
)


def read_settings(text: str) -> Settings:
    """``{"store": "127.0.0.1:8333", "providers": [{"name", "places": [{"name", "spot_usd_hour",
    "on_demand_usd_hour"}], "boot_s", ...}], "env": {...}}``; everything may be left out. Raises ``BadSettings``."""
    try:
        given = json.loads(text)
        known = {"store", "providers", "env"}
        if not isinstance(given, dict) or set(given) - known:
            raise BadSettings(f"the fleet's settings are an object with {', '.join(sorted(known))}")
        providers = tuple(_pretend(one) for one in given.get("providers", ())) or DEFAULT_PROVIDERS
        env = {str(name): str(value) for name, value in given.get("env", {}).items()}
        return Settings(providers, _address(given.get("store")), env)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadSettings(f"the fleet's settings can't be read: {error}") from None


def _pretend(given: dict[str, Any]) -> Pretend:
    unknown = set(given) - {one.name for one in fields(Pretend)}
    if unknown:
        raise BadSettings(f"a provider has no {', '.join(sorted(unknown))}")
    places = tuple(Place(**place) for place in given["places"])
    if not places:
        raise BadSettings("a provider needs a place")
    return Pretend(**{**given, "places": places})


def _address(given: str | None) -> tuple[str, int] | None:
    if given is None:
        return None
    host, _, port = given.rpartition(":")
    return host, int(port)
