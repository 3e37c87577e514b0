"""What the supervisor is doing now, as its beat tells it: mutable, one an agent, read by whoever sends beats."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vl_agent.protocol import Beat, Phase

if TYPE_CHECKING:
    from vl_agent.checkpoints.upload import Progress


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
    upload_bytes: int | None = None
    upload_total: int | None = None
    upload_rate: float | None = None
    at_risk: str = ""
    at_risk_since: float | None = None
    """By this machine's monotonic clock."""
    beat_put: tuple[float, float] | None = None
    """Wall time right before and right after the newest beat that the store took."""
    layout: str = ""
    detail: str = ""

    def upload(self, progress: Progress | None) -> None:
        """How far the upload of the newest save is; None: none is under way."""
        self.upload_bytes = progress.bytes if progress else None
        self.upload_total = progress.total if progress else None
        self.upload_rate = round(progress.rate, 1) if progress else None

    def beat(self) -> Beat:
        """The next beat: the counter moves once for each."""
        self.counter += 1
        since, deadline = self.at_risk_since, self.notice_deadline
        return Beat(
            counter=self.counter, launch=self.launch, epoch=self.epoch, phase=self.phase, step=self.step,
            loss=self.loss, saved_step=self.saved_step, durable_step=self.durable_step, total_steps=self.total_steps,
            notice_deadline=deadline, notice_left_s=None if deadline is None else round(deadline - time.time(), 1),
            store_error=self.store_error, layout=self.layout, detail=self.detail,
            upload_bytes=self.upload_bytes, upload_total=self.upload_total, upload_rate=self.upload_rate,
            at_risk=self.at_risk, at_risk_s=0.0 if since is None else round(time.monotonic() - since, 1),
        )  # fmt: skip
