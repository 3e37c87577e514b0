"""One run as this controller knows it: records read from the store once, head and beat looked at again and again.

Everything here can be rebuilt from the store; what a controller alone knows (silences, requests under way) begins anew
with the next one, which is then only more patient.
"""

from __future__ import annotations

from collections.abc import Callable

from vl_agent import head as heads
from vl_agent.protocol import ENDED_STATES, Head, Intent, LaunchEnd, LaunchRecord, ProtocolError, RunSpec
from vl_agent.store import StoreError

from vl_tui.controller import wishes
from vl_tui.controller.journal import Journal
from vl_tui.controller.lease import Held
from vl_tui.controller.links import LinkName
from vl_tui.controller.market import Market
from vl_tui.controller.pace import Pace
from vl_tui.controller.ports import Ports
from vl_tui.controller.tracked import Tracked
from vl_tui.domain.run import RunView
from vl_tui.store import runs

FAILURES = ("no_capacity", "launch_failed", "prepare_failed", "failed")
"""Ends of launches that came to nothing: the more in a row, the longer the pause before the next."""
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.5, 60.0


class RunState:
    """Facts of one run. ``load`` first, then ``observe`` before each decision."""

    def __init__(
        self, ports: Ports, lease: Held, market: Market, spec: RunSpec, head: Head, *,
        changed: Callable[[], None], ask_now: Callable[[str], None],
    ) -> None:  # fmt: skip
        """``changed``: look at this run now; ``ask_now``: ask that provider now."""
        self.ports, self.lease, self.market, self.spec, self.head = ports, lease, market, spec, head
        self.changed, self._ask_now = changed, ask_now
        self.journal = Journal(ports.store, spec.name, lease.generation, ports.clock)
        self.launches: dict[int, Tracked] = {}
        self.intents: dict[str, Intent] = {}
        """Not answered yet."""
        self.pace = Pace(spec)
        self.reached = True
        self.pause_until = 0.0
        self.stop_seen_at: float | None = None
        self.prove_from: dict[int, int] = {}
        """By epoch: the step that its beat must pass before its losses are looked at (``proof``)."""
        self.proven: set[int] = set()
        self.decision, self.rejected = "", tuple[dict[str, str], ...]()
        """Why it is where it is, and what was not chosen."""
        self.waiting = ""
        """What it waits for just now."""

    @property
    def now(self) -> float:
        return self.ports.clock.mono()

    @property
    def holder(self) -> Tracked | None:
        """The launch of the head's epoch, given up or not."""
        return self.launches.get(self.head.launch)

    async def load(self, *, stamp: bool = True) -> None:
        """Stamp the head of a run that goes on, read every launch record and what was journaled, and journal what a
        controller that was killed came not to tell. Raises ``NewerController``, ``StoreError``."""
        store, run = self.ports.store, self.spec.name
        if stamp:
            self.head = await heads.stamp(store, run, generation=self.lease.generation)
        await self.journal.read()
        for launched in await runs.launches(store, run):
            self.track(launched.record, launched.end, fresh=False)
        self._recall_decision()
        if not self.done:
            self._tell_what_was_not_told()
            await self.journal.flush()

    def track(self, record: LaunchRecord, end: LaunchEnd | None, *, fresh: bool) -> Tracked:
        def link_told(name: LinkName, words: str) -> None:
            if words:
                self.ports.say(f"{record.name}: {name}: {words}")
            if name == "down":
                self._ask_now(record.provider)  # it may know why, seconds before its next turn
            self.changed()

        tracked = Tracked(record, end, self.now, self.changed, link_told, fresh=fresh)
        tracked.terminated = self.journal.has("terminated", launch=record.number)
        self.launches[record.number] = tracked
        return tracked

    def _tell_what_was_not_told(self) -> None:
        journal, head = self.journal, self.head
        journal.tell("controller", head.epoch, generation=self.lease.generation, owner=self.lease.owner)
        for number, tracked in sorted(self.launches.items()):
            if not journal.has("launched", launch=number):
                self.tell_launched(tracked.record, "", ())
            if tracked.end is not None and not journal.has("launch_ended", launch=number):
                self.tell_ended(tracked.end)
        self._tell_untold_attempt()

    def _tell_untold_attempt(self) -> None:
        """A start that was done, though nobody came to say so: its answer was lost, or its controller was killed."""
        if self.head.launch in self.launches and not self.journal.has("attempt", epoch=self.head.epoch):
            self.tell_attempt(self.launches[self.head.launch].record)

    def _recall_decision(self) -> None:
        for event in self.journal.told:
            if event.kind == "launched":
                self.decision = f"{event.fields.get('why')}: {event.fields.get('words')}"

    def tell_launched(self, record: LaunchRecord, words: str, rejected: tuple[dict[str, str], ...]) -> None:
        self.journal.tell(
            "launched", self.head.epoch, launch=record.number, provider=record.provider, place=record.place,
            market=record.market, usd_hour=record.usd_hour, gpu=record.gpu, box_name=record.name, why=record.why,
            words=words, rejected=list(rejected),
        )  # fmt: skip

    def tell_attempt(self, record: LaunchRecord, why: str = "") -> None:
        self.journal.tell(
            "attempt", self.head.epoch, launch=record.number, provider=record.provider, place=record.place,
            market=record.market, usd_hour=record.usd_hour, why=why or record.why,
        )  # fmt: skip

    def tell_ended(self, end: LaunchEnd) -> None:
        self.journal.tell("launch_ended", self.head.epoch, launch=end.number, reason=end.reason, detail=end.detail)

    # -- looking --

    async def observe(self) -> None:
        """Read the head and the holder's beat. Out of reach, every silence so far is void: it may have been ours.
        Raises ``NewerController``: who slept, and wakes, decides nothing by what it knew before."""
        try:
            self.head, _ = await heads.read(self.ports.store, self.spec.name)
            if self.head.generation > self.lease.generation:
                raise heads.NewerController(self.head.generation)
            self._tell_untold_attempt()
            if self.head.state == "running":
                await self._read_beat()
            self.reached = True
        except (StoreError, ProtocolError) as error:
            if self.reached:
                self.ports.say(f"{self.spec.name}: {error}")
            self.reached = False
            self.deaf()
        now = self.now
        for tracked in self.launches.values():
            tracked.follow(self.head, now)
        if self.holder is not None and self.holder.watch.beat is not None:
            self.pace.beat(self.holder.watch.beat, now)

    async def _read_beat(self) -> None:
        holder = self.holder
        if holder is None:
            return
        try:
            beat = await runs.beat(self.ports.store, self.spec.name, self.head.epoch)
        except ProtocolError:
            return  # a beat that can't be read is no beat
        if beat is not None:
            holder.watch.beat_in_store(beat, self.now)

    def deaf(self) -> None:
        for tracked in self.launches.values():
            tracked.watch.deaf(self.now)

    # -- as ``decide`` sees it --

    def view(self) -> RunView:
        now, wall = self.now, self.ports.clock.wall()
        launches = tuple(
            tracked.view(
                self.head,
                now,
                grace_s=self.spec.grace_s,
                lag_s=self.market.lag_s(tracked.record.provider),
                boot_s=self.market.boot_s(tracked.record.offer),
            )
            for _, tracked in sorted(self.launches.items())
        )
        attempts = [event.fields.get("launch") for event in self.journal.told if event.kind == "attempt"]
        view = RunView(
            spec=self.spec,
            head=self.head,
            launches=launches,
            intents=tuple(sorted(self.intents.values(), key=lambda intent: (intent.at, intent.id))),
            progress=self.pace.progress(self.head),
            attempted=max((launch for launch in attempts if isinstance(launch, int)), default=0),
            missing_secrets=self.ports.missing_secrets(self.spec),
            no_launch_for_s=max(0.0, self.pause_until - now),
            stop_wanted_s=None if self.stop_seen_at is None else now - self.stop_seen_at,
            closed=self.journal.has("run_ended", epoch=self.head.epoch),
        )
        if self.stop_seen_at is None and wishes.must_stop(view, wall):
            self.stop_seen_at = now
        return view

    def pause_after_failure(self) -> None:
        """Full jitter over a window that doubles with each launch in a row that came to nothing."""
        row = 0
        for _, tracked in sorted(self.launches.items(), reverse=True):
            if tracked.end is None:
                continue
            if tracked.end.reason not in FAILURES:
                break
            row += 1
        if row:
            window = min(_PAUSE_MOST_S, _PAUSE_FIRST_S * 2.0**row)
            self.pause_until = self.now + self.ports.dice.uniform(window / 2, window)

    @property
    def done(self) -> bool:
        """Ended, told so, and every box known to be gone: nothing is left to keep."""
        ended = self.head.state in ENDED_STATES and self.journal.has("run_ended", epoch=self.head.epoch)
        return ended and all(tracked.terminated for tracked in self.launches.values())
