"""Which of the counters in a training's output is its step, and what the output last said beside it. Pure.

Of several counters the one that names a step in words counts most, then a bar whose title says that it trains, then one
without a title. Of bars alike the one with the largest total counts; a counter that has begun is kept while it goes on,
so that an evaluation in between does not take its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vl_agent.metrics.figures import Bar, Figures, read
from vl_agent.metrics.lines import Lines

_NEARLY = 0.9
"""A counter that falls back after so much of its total begins its next epoch."""


@dataclass(frozen=True)
class Progress:
    """What the output has said so far; None: nothing."""

    step: int | None = None
    """Never falls, but where a surer counter takes over."""
    total: int | None = None
    loss: float | None = None
    """As printed: rounded, or a mean over several steps."""
    lr: float | None = None
    grad_norm: float | None = None
    throughput: float | None = None
    unit: str = ""
    moves: int = 0
    """Grows with every move of any counter, also of one that is no step: an evaluation is no standstill."""
    counter: Bar | None = None
    """The counter that is followed, as it was last seen; ``title`` "step" for one in words."""
    before: int = 0
    """Steps of the epochs that this counter has been through."""
    other: Bar | None = None
    """The last of the counters that are not followed."""


def advance(now: Progress, seen: Figures) -> Progress:
    """``now`` with one more line."""
    now = replace(
        now,
        loss=now.loss if seen.loss is None else seen.loss,
        lr=now.lr if seen.lr is None else seen.lr,
        grad_norm=now.grad_norm if seen.grad_norm is None else seen.grad_norm,
        throughput=now.throughput if seen.throughput is None else seen.throughput,
        unit=now.unit if seen.throughput is None else seen.unit,
    )
    counter = seen.bar if seen.step is None else Bar("step", seen.step, seen.total)
    if counter is None:
        return now
    followed = now.counter
    taken = not counter.foreign if followed is None else _same(followed, counter) or _takes_over(counter, followed)
    if not taken:
        return replace(now, other=counter, moves=now.moves + (counter != now.other))
    return _followed(now, counter)


def _followed(now: Progress, counter: Bar) -> Progress:
    last = now.counter
    if last is None or not _same(last, counter):
        return replace(now, step=counter.count, total=counter.total, counter=counter, before=0, moves=now.moves + 1)
    before = now.before
    if counter.total and last.count >= _NEARLY * counter.total and counter.count < last.count / 2:
        before += counter.total  # its next epoch: how many there are, nobody says
    elif counter.count <= last.count:  # drawn again, or another process's, a little behind
        return now
    total = None if before else counter.total
    step = max(now.step or 0, before + counter.count)
    return replace(now, step=step, total=total, counter=counter, before=before, moves=now.moves + 1)


def _same(one: Bar, other: Bar) -> bool:
    return (one.title, one.total) == (other.title, other.total) or (one.title == other.title == "step")


def _rank(bar: Bar) -> int:
    return 3 if bar.title == "step" else 0 if bar.foreign else 2 if bar.trains else 1


def _takes_over(new: Bar, followed: Bar) -> bool:
    """Whether a counter is surer than the one that is followed."""
    if _rank(new) != _rank(followed):
        return _rank(new) > _rank(followed)
    under_way = 0 < followed.count < (followed.total or followed.count + 1)
    return not under_way and (new.total or 0) > (followed.total or 0)


class Output:
    """Takes the output's bytes in; ``now`` is what they say."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._progress = Progress()

    def feed(self, chunk: bytes) -> None:
        for line in self._lines.feed(chunk):
            self._progress = advance(self._progress, read(line))

    @property
    def now(self) -> Progress:
        """With the live line, where it is a whole bar."""
        live = self._lines.live
        return advance(self._progress, read(live)) if live.endswith("]") else self._progress

    def forget(self) -> None:
        self._lines.forget()
