"""Boxes and offers as plain data: what a provider says it has, and what it could give.

Owned by nobody's adapter: policy and decisions read these, ``vl_tui.providers`` fills them in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vl_agent.protocol import Market

BoxState = Literal["launching", "running", "stopped", "preempted", "gone", "unknown"]
Availability = Literal["none", "low", "some", "high", "unknown"]


@dataclass(frozen=True)
class Need:
    """What a run asks of a box."""

    gpu: str
    market: Market | None = None
    """None: any market."""


@dataclass(frozen=True)
class Offer:
    """A GPU class at a place in a market at a price."""

    key: str
    """Unique within the fleet, ``provider/place/gpu/market``."""
    provider: str
    """The configured provider's name."""
    place: str
    market: Market
    gpu: str
    usd_hour: float
    """USD per box-hour."""
    available: Availability
    seen_at: float
    """Unix seconds when the provider said so."""
    boot_s: float = 60.0
    """Usual seconds from launch to a box that answers over SSH."""
    reclaims_per_hour: float = 0.0
    """Hazard of this place in this market, where known."""
    note: str = ""
    """Why it can't be had, where the provider tells."""


@dataclass(frozen=True)
class SshAddress:
    host: str
    port: int = 22
    user: str = ""
    """Empty: what ssh's own configuration says."""
    key_paths: tuple[str, ...] = ()
    """Private keys to log in with; empty: the person's own keys and agent."""
    alias: str = ""
    """A name of ``~/.ssh/config`` to resolve with ``ssh -G``; empty: host and port as given, no configuration read."""


@dataclass(frozen=True)
class Box:
    """A machine as its provider sees it now."""

    id: str
    name: str
    place: str
    market: Market
    state: BoxState
    usd_hour: float
    created_at: float
    cause: str = ""
    """The provider's own words on why it is stopped, preempted or gone."""
    ssh: SshAddress | None = None
    host_keys: tuple[str, ...] = ()
    """OpenSSH public key lines told by the provider; empty: pin on first use."""
    tags: Mapping[str, str] = field(default_factory=dict)
