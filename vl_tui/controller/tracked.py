"""One launch as this controller follows it: its records, its request at the provider, its boxes, link and witnesses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

from vl_agent.protocol import Beat, Head, LaunchEnd, LaunchRecord

from vl_tui.controller.links import Link, LinkName
from vl_tui.controller.witness import Watch
from vl_tui.domain.box import Box
from vl_tui.domain.evidence import ALIVE, TAKEN, Evidence, Verdict, judge
from vl_tui.domain.run import Asked, LaunchView

_PREPARING_PATIENCE = 4.0
"""A box that holds no epoch has no beat in the store: with one witness less, its silence may last so many graces."""


class Tracked:
    """State of one launch; times by the controller's monotonic clock. ``changed`` wakes the run's keeper, ``link_told``
    hears what becomes of the link."""

    def __init__(
        self, record: LaunchRecord, end: LaunchEnd | None, now: float, changed: Callable[[], None],
        link_told: Callable[[LinkName, str], None], *, fresh: bool,
    ) -> None:  # fmt: skip
        self.record, self.end, self.fresh = record, end, fresh
        self._changed, self._link_told = changed, link_told
        self.seen_at = now
        self.asked: Asked = "no" if fresh else "unsure"
        self.refusal, self.no_capacity = "", False
        self.unsure_at = now
        self.boxes: tuple[Box, ...] = ()
        self.watch = Watch(now)
        self.link: Link | None = None
        self.tasks: dict[str, asyncio.Task[None]] = {}
        """``ask``, ``link`` and ``terminate``, while they run."""
        self._end_again_at, self._end_pause_s = now, 0.0
        self.link_name: LinkName = "down"
        self.link_words = ""
        self.stopping_at: float | None = None
        self.starting_at: float | None = None
        self.claimed_at: float | None = None
        self.prepared_at: float | None = None
        self.relinked_at: float | None = None
        self.ended_at: float | None = None if end is None else now
        self.terminated = False

    # -- what comes in over the link: ``Heard`` --

    def heard(self, mono: Callable[[], float]) -> _Ear:
        return _Ear(self, mono)

    def on_beat(self, beat: Beat, now: float) -> None:
        if beat.launch != self.record.number:
            return
        before = self.watch.beat
        self.watch.beat_over_ssh(beat, now)
        waits = beat.phase == "prepared" and beat.epoch == 0
        self.prepared_at = (self.prepared_at or now) if waits else None
        if before is None or (before.phase, before.epoch, before.notice_deadline) != (
            beat.phase, beat.epoch, beat.notice_deadline,
        ):  # fmt: skip
            self._changed()

    def on_link(self, name: LinkName, words: str) -> None:
        if (name, words) != (self.link_name, self.link_words):
            self.link_name, self.link_words = name, words
            self._link_told(name, words)

    # -- what the provider says --

    def on_boxes(self, boxes: tuple[Box, ...], now: float) -> None:
        """Every box of this launch's name, or the one it had; gone ones included."""
        before, self.boxes = self.box, boxes
        box = self.box
        if box is None:
            return
        if self.asked == "unsure":
            self.asked = "answered"
        self.watch.word(box.state, box.cause, now)
        if before is None or (before.id, before.state, before.ssh) != (box.id, box.state, box.ssh):
            self._changed()

    def on_absent(self, now: float) -> None:
        """The provider knows no such box, and its consistency lag has passed."""
        self.boxes = tuple(replace(box, state="gone") for box in self.boxes)
        started = self.starting_at is not None or self.claimed_at is not None
        if self.asked == "answered" or started:  # else nobody knows that there ever was one
            self.watch.word("gone", "its provider does not know it any more", now)
            self._changed()

    @property
    def box(self) -> Box | None:
        """The one that counts: living before gone, the oldest, then the smallest id."""
        return min(self.boxes, key=lambda box: (box.state in TAKEN, box.created_at, box.id), default=None)

    @property
    def attached(self) -> bool:
        return self.link_name == "attached"

    def pause_ending(self, now: float, dice: random.Random) -> None:
        """Its boxes could not be ended: not again before a pause that doubles, with jitter."""
        self._end_pause_s = min(30.0, max(0.5, 2 * self._end_pause_s))
        self._end_again_at = now + dice.uniform(self._end_pause_s / 2, self._end_pause_s)

    # -- as ``decide`` sees it --

    def follow(self, head: Head, now: float) -> None:
        """What the head says about this launch's epoch, with the moments at which it was first seen to say so."""
        mine = head.launch == self.record.number
        starting = mine and head.state == "starting" and "/" not in head.holder
        claimed = mine and head.state == "running"
        if starting and self.starting_at is None:
            self.watch.began(now)
        if claimed and self.claimed_at is None:
            self.watch.began(now)
        self.starting_at = (self.starting_at or now) if starting else None
        self.claimed_at = (self.claimed_at or now) if claimed else None

    def evidence(self, now: float, *, holds: bool) -> Evidence:
        return self.watch.evidence(now, self.record.market, holds=holds and self.claimed_at is not None)

    def verdict(self, now: float, grace_s: float, *, holds: bool) -> Verdict:
        seen = self.evidence(now, holds=holds)
        if holds:
            return judge(seen, grace_s)
        if self.watch.beat is None and seen.word not in TAKEN:
            return ALIVE  # it boots: the launch deadline is what it has
        return judge(seen, grace_s * _PREPARING_PATIENCE)

    def view(self, head: Head, now: float, *, grace_s: float, lag_s: float, boot_s: float) -> LaunchView:
        holds = head.launch == self.record.number
        epochless = None
        if self.prepared_at is not None and self.claimed_at is not None:
            epochless = min(now - self.prepared_at, now - self.claimed_at)
        return LaunchView(
            record=self.record,
            end=self.end,
            fresh=self.fresh,
            asked=self.asked,
            refusal=self.refusal,
            no_capacity=self.no_capacity,
            boxes=tuple(box for box in self.boxes if box.state not in TAKEN),
            settled=now - self.unsure_at > lag_s,
            age_s=now - self.seen_at,
            boot_s=boot_s,
            verdict=self.verdict(now, grace_s, holds=holds),
            attached=self.attached,
            beat=self.watch.beat,
            link_refusal=self.link_words if self.link_name == "refused" else "",
            stopping_s=_since(self.stopping_at, now),
            starting_s=_since(self.starting_at, now) or 0.0,
            relinked_s=_since(self.relinked_at, now),
            epochless_s=epochless or 0.0,
            ended_s=_since(self.ended_at, now),
            ending="terminate" in self.tasks or now < self._end_again_at,
            terminated=self.terminated,
        )


class _Ear:
    """``Heard``, bound to a clock: a link that was dropped may still call it, and is not listened to then."""

    def __init__(self, tracked: Tracked, mono: Callable[[], float]) -> None:
        self._tracked, self._mono, self.closed = tracked, mono, False

    def beat(self, beat: Beat) -> None:
        if not self.closed:
            self._tracked.on_beat(beat, self._mono())

    def link(self, name: LinkName, words: str) -> None:
        if not self.closed:
            self._tracked.on_link(name, words)


def _since(then: float | None, now: float) -> float | None:
    return None if then is None else now - then
