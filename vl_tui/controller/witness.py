"""One box's witnesses as this observer hears them, each with the moment at which it was last seen to move.

Silence counts only while the observer could have heard: ``deaf`` takes everything before out of it.
"""

from __future__ import annotations

from vl_agent.protocol import Beat, Market

from vl_tui.domain.box import BoxState
from vl_tui.domain.evidence import Evidence


class Watch:
    """All times by the observer's own monotonic clock, in seconds. A counter is compared for being another, never for
    being greater: a new supervisor begins at 0 again."""

    def __init__(self, now: float) -> None:
        self._ssh_moved = self._ssh_heard = self._store_moved = self._word_at = now
        self._ssh_counter: tuple[int, int] | None = None
        self._store_counter: tuple[int, int] | None = None
        self._word: BoxState = "unknown"
        self._cause = ""
        self.beat: Beat | None = None
        """The newest, over whichever way it came."""

    def beat_over_ssh(self, beat: Beat, now: float) -> None:
        self._ssh_heard = now
        counter = (beat.epoch, beat.counter)
        if counter != self._ssh_counter:
            self._ssh_counter, self._ssh_moved, self.beat = counter, now, beat

    def beat_in_store(self, beat: Beat, now: float) -> None:
        counter = (beat.epoch, beat.counter)
        if counter == self._store_counter:
            return
        first = self._store_counter is None
        self._store_counter = counter
        if first and self.beat is None:
            self.beat = beat  # as old as it may be: what it says of notice and phase is all there is
        elif not first:
            self._store_moved = now
            if now - self._ssh_moved > 2.5:
                self.beat = beat

    def word(self, state: BoxState, cause: str, now: float) -> None:
        """The provider's. ``unknown`` (it could not be asked) leaves an older word standing, and growing old."""
        if state != "unknown":
            self._word, self._cause, self._word_at = state, cause, now

    def deaf(self, now: float) -> None:
        """Until now the observer could not have heard anything: its own stall, or the store out of its reach."""
        self._ssh_moved = self._ssh_heard = self._store_moved = now

    def began(self, now: float) -> None:
        """An epoch was started here: its beats begin now."""
        self._store_moved = now

    def ssh_silent_s(self, now: float) -> float:
        return now - self._ssh_moved

    def evidence(self, now: float, market: Market, *, holds: bool) -> Evidence:
        """``holds``: the box holds an epoch, so a beat in the store is to be expected."""
        return Evidence(
            ssh_moved_s=now - self._ssh_moved,
            ssh_heard_s=now - self._ssh_heard,
            store_moved_s=now - self._store_moved if holds else None,
            word=self._word,
            word_s=now - self._word_at,
            word_cause=self._cause,
            market=market,
            store_error=self.beat.store_error if self.beat else "",
            at_risk=self.beat.at_risk if self.beat else "",
            at_risk_s=self.beat.at_risk_s if self.beat else 0.0,
        )
