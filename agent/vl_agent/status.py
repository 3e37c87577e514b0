"""What the supervisor is doing now, as its beat tells it: mutable, one an agent, read by whoever sends beats."""

from __future__ import annotations

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
    layout: str = ""
    detail: str = ""

    def beat(self) -> Beat:
        """The next beat: the counter moves once for each."""
        self.counter += 1
        return Beat(
            counter=self.counter, launch=self.launch, epoch=self.epoch, phase=self.phase, step=self.step,
            loss=self.loss, saved_step=self.saved_step, durable_step=self.durable_step, total_steps=self.total_steps,
            notice_deadline=self.notice_deadline, store_error=self.store_error, layout=self.layout,
            detail=self.detail,
        )  # fmt: skip
