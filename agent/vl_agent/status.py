"""What the supervisor is doing now, as its beat tells it: mutable, one an agent, read by whoever sends beats."""

from __future__ import annotations

import time
from dataclasses import dataclass

from vl_agent.protocol import Beat, Phase


@dataclass
class Status:
    launch: int
    epoch: int = 0
    phase: Phase = "preparing"
    counter: int = 0
    step: int | None = None
    loss: float | None = None
    saved_step: int | None = None
    durable_step: int | None = None
    total_steps: int | None = None
    notice_deadline: float | None = None
    store_error: str = ""
    at_risk: str = ""
    at_risk_since: float | None = None
    """By this machine's monotonic clock."""
    beat_put: tuple[float, float] | None = None
    """Wall time right before and right after the newest beat that the store took."""
    layout: str = ""
    detail: str = ""

    def beat(self) -> Beat:
        """The next beat: the counter moves once for each."""
        self.counter += 1
        since, deadline = self.at_risk_since, self.notice_deadline
        return Beat(
            counter=self.counter, launch=self.launch, epoch=self.epoch, phase=self.phase, step=self.step,
            loss=self.loss, saved_step=self.saved_step, durable_step=self.durable_step, total_steps=self.total_steps,
            notice_deadline=deadline, notice_left_s=None if deadline is None else round(deadline - time.time(), 1),
            store_error=self.store_error, layout=self.layout, detail=self.detail,
            at_risk=self.at_risk, at_risk_s=0.0 if since is None else round(time.monotonic() - since, 1),
        )  # fmt: skip
