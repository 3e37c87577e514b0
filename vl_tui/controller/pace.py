"""How far a run is and how quick, from its beats."""

from __future__ import annotations

from vl_agent.protocol import Beat, Head, RunSpec

from vl_tui.domain.run import Progress

_WINDOW_S = 10.0
"""Speed is measured over stretches of so long, and smoothed."""


class Pace:
    """Folds the holder's beats; times by the observer's monotonic clock."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._total = spec.total_steps
        self._step: int | None = None
        self._s_per_step: float | None = None
        self._since: tuple[int, int, float] | None = None
        self._durable_at: float | None = None
        self._durable: int | None = None
        self._save_every_s = spec.checkpoints.every_s or 300.0

    def beat(self, beat: Beat, now: float) -> None:
        self._total = self._total or beat.total_steps
        if beat.phase != "training" or beat.step is None:
            self._since = None
            return
        self._step = beat.step
        if self._since is None or self._since[0] != beat.epoch:
            self._since = (beat.epoch, beat.step, now)
        _, step, then = self._since
        if beat.step > step and now - then >= min(_WINDOW_S, 2.0 if self._s_per_step is None else _WINDOW_S):
            measured = (now - then) / (beat.step - step)
            self._s_per_step = measured if self._s_per_step is None else 0.5 * (measured + self._s_per_step)
            self._since = (beat.epoch, beat.step, now)
        self._saves(beat.durable_step, now)

    def _saves(self, durable: int | None, now: float) -> None:
        if durable is None or durable == self._durable:
            return
        if self._durable is not None and self._durable_at is not None and durable > self._durable:
            self._save_every_s = now - self._durable_at
        self._durable, self._durable_at = durable, now

    def progress(self, head: Head) -> Progress:
        durable = head.checkpoint.step if head.checkpoint else None
        return Progress(self._step, durable, self._total, self._s_per_step, self._save_every_s)
