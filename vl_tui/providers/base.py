"""What every provider of boxes promises. Adding one is one file here and one test class.

Rules for an adapter (they are what makes the controller restart-safe):

(a) A create whose reply is lost raises ``Unsure``; the controller calls ``find`` until ``Caps.lag_s`` has passed
    before it launches again. ``launch`` itself begins with ``find``: a box of that name is adopted, not doubled.
(b) An adapter retries by itself only what was certainly not carried out (rate limits, refused connections).
(c) ``NoCapacity`` may come out of ``launch`` or later as a box in state ``gone``; the launch deadline is the
    controller's.
(d) ``unknown`` means that the provider could not be asked. It is never treated as gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vl_tui.domain.box import Availability, Box, BoxState, Need, Offer, SshAddress

__all__ = [
    "Auth",
    "Availability",
    "Box",
    "BoxState",
    "Caps",
    "Invalid",
    "Launch",
    "Need",
    "NoCapacity",
    "NotFound",
    "Offer",
    "Provider",
    "ProviderError",
    "Quota",
    "RateLimited",
    "SshAddress",
    "Transient",
    "Unsure",
]


class ProviderError(Exception):
    """A provider said no or could not be asked. ``str()`` is one paragraph for a person."""

    def __init__(self, words: str, remedy: str = "", place: str = "", retry_after: float | None = None) -> None:
        super().__init__(words)
        self.words, self.remedy, self.place, self.retry_after = words, remedy, place, retry_after

    def __str__(self) -> str:
        return f"{self.words} {self.remedy}".strip()


class NoCapacity(ProviderError):
    """Nothing to be had at this place in this market now: try another."""


class Quota(ProviderError):
    """The account may not have more (or has no money left) until a person acts."""


class Auth(ProviderError):
    """The credential is missing, wrong or expired."""


class RateLimited(ProviderError):
    """Too many calls; nothing was done. ``retry_after`` in seconds where told."""


class NotFound(ProviderError):
    """No such box; for ``terminate`` that is success and is not raised."""


class Invalid(ProviderError):
    """The request itself is wrong: trying again does not help."""


class Transient(ProviderError):
    """The provider can't be reached or answered with a fault of its own; nothing is known to have been done."""


class Unsure(ProviderError):
    """A create whose reply was lost: the box may or may not exist. Look by name before launching again."""


@dataclass(frozen=True)
class Caps:
    """What an adapter can do, and how long its provider's eventual consistency lasts."""

    spot: bool = False
    notice_s: int = 0
    """Seconds between a notice and the reclaim; 0: none is given."""
    lag_s: float = 0.0
    """A box may be missing from ``find``/``describe`` for so long after its launch."""
    self_terminate: bool = False
    """A box ends its own bill when its agent ends it."""


@dataclass(frozen=True)
class Launch:
    """One request for a box."""

    name: str
    """Also the client token: the same name twice is the same box."""
    offer: Offer
    tags: Mapping[str, str]
    """At least vl-fleet, vl-run and vl-launch."""
    public_key: str
    """OpenSSH public key line that must be able to log in."""


class Provider(Protocol):
    """An adapter. Every method may raise ``ProviderError`` and ends within a time of its own choosing (<= 60 s)."""

    name: str
    caps: Caps

    async def check(self) -> str:
        """Prove that the credential works; return a line for a person (where it was found, never its value)."""
        ...

    async def offers(self, need: Need) -> list[Offer]:
        """What could be had now. Stale answers carry their ``seen_at``."""
        ...

    async def launch(self, launch: Launch) -> Box:
        """Find by name first, then create. Idempotent by name. May raise ``NoCapacity``, ``Quota``, ``Unsure``."""
        ...

    async def find(self, name: str) -> list[Box]:
        """Every box of that name, dying ones and doubles included; empty when there is none."""
        ...

    async def describe(self, ids: Sequence[str]) -> dict[str, Box | None]:
        """Each box's state now; None: the provider knows no such box (within ``lag_s`` of launch: proves nothing)."""
        ...

    async def ours(self, fleet: str) -> list[Box]:
        """Every living box of this fleet, by tag or name: what the orphan sweep reads."""
        ...

    async def terminate(self, box_id: str) -> None:
        """End the box and its bill. Idempotent; a box that is not there is success."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
