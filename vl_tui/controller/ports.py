"""Everything outside that the controller touches, in one place: tests put other parts in."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from vl_agent.protocol import RunSpec
from vl_agent.store import Store

from vl_tui.controller.clock import Clock
from vl_tui.controller.links import Connect
from vl_tui.domain.box import Box
from vl_tui.providers.base import Provider


@dataclass(frozen=True)
class Ports:
    fleet: str
    store: Store
    providers: Mapping[str, Provider]
    connect: Connect
    clock: Clock
    public_key: str
    """OpenSSH public key line of the fleet's own key, for boxes that are launched."""
    key_path: str
    """Its private half."""
    missing_secrets: Callable[[RunSpec], tuple[str, ...]]
    """Names of the run's secrets that this side has no value for."""
    say: Callable[[str], None]
    """The controller's log: one line, never a secret."""
    poll_s: float = 5.0
    """Between two questions to a provider about its boxes."""
    beat_s: float = 2.0
    """Between two looks at a run's head and beat."""
    dice: random.Random = field(default_factory=random.Random)

    def keyed(self, box: Box) -> Box:
        """A launched box is entered with the fleet's own key, unless its provider says with which."""
        if box.ssh is None or box.ssh.key_paths or box.market == "owned":
            return box
        return replace(box, ssh=replace(box.ssh, key_paths=(self.key_path,)))
