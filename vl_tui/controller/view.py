"""``fleet/view.json``: what only the controller knows, for whoever looks. Published on change, at most every 2 s."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vl_agent.protocol import VIEW_KEY
from vl_agent.store import Store, StoreError

from vl_tui.controller.clock import Clock
from vl_tui.controller.keeper import Keeper
from vl_tui.controller.tracked import Tracked
from vl_tui.domain.box import Offer
from vl_tui.domain.evidence import statements
from vl_tui.domain.money import burning_usd_hour, spent_usd

EVERY_S = 2.0
REFRESH_S = 10.0
"""Published anew after so long also without a change: ages in it grow old."""


def document(
    *, generation: int, owner: str, now: float, offers: Sequence[Offer], keepers: Iterable[Keeper],
    alerts: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """The whole view; ``now`` in unix seconds."""
    return {
        "format": 1,
        "generation": generation,
        "owner": owner,
        "published_at": now,
        "offers": [dataclasses.asdict(offer) for offer in offers],
        "runs": {keeper.state.spec.name: _run(keeper, now) for keeper in keepers},
        "alerts": list(alerts),
    }


def _run(keeper: Keeper, wall: float) -> dict[str, Any]:
    run = keeper.state
    now, holder = run.now, run.holder
    records = [(tracked.record, tracked.end) for tracked in run.launches.values()]
    words: dict[str, Any] = {"verdict": "", "evidence": [], "cause": ""}
    if holder is not None and holder.end is None and run.head.state in ("starting", "running"):
        verdict = holder.verdict(now, run.spec.grace_s, holds=True)
        evidence = statements(holder.evidence(now, holds=True))
        words = {"verdict": verdict.name, "words": verdict.words, "evidence": evidence, "cause": verdict.cause}
    progress = dataclasses.asdict(run.pace.progress(run.head))
    return words | {
        "waiting": run.waiting,
        "spent_usd": round(spent_usd(records, wall), 4),
        "usd_hour": burning_usd_hour(records),
        "decision": run.decision,
        "rejected": list(run.rejected),
        "progress": progress,
        "reached": run.reached,
        "boxes": [_box(tracked) for _, tracked in sorted(run.launches.items()) if not tracked.terminated],
    }


def _box(tracked: Tracked) -> dict[str, Any]:
    record, box, beat = tracked.record, tracked.box, tracked.watch.beat
    return {
        "launch": record.number,
        "box": record.name,
        "box_id": box.id if box else "",
        "provider": record.provider,
        "place": record.place,
        "market": record.market,
        "usd_hour": record.usd_hour,
        "state": box.state if box else tracked.asked,
        "phase": beat.phase if beat else "",
        "detail": beat.detail if beat else tracked.refusal,
        "link": tracked.link_name,
        "given_up": tracked.end.reason if tracked.end else "",
        "ssh": dataclasses.asdict(box.ssh) if box and box.ssh else None,
        "host_keys": list(box.host_keys) if box else [],
    }


class Publisher:
    """Puts the view when it says something else than before; ages and the time of publishing are no change."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._last: str | None = None
        self._at = -REFRESH_S

    async def offer(self, view: Mapping[str, Any]) -> bool:
        """Publish ``view`` if it is time to. False: nothing new, too soon, or the store did not take it."""
        now, body = self._clock.mono(), json.dumps(_ageless(view), sort_keys=True)
        if now - self._at < EVERY_S or (body == self._last and now - self._at < REFRESH_S):
            return False
        try:
            await self._store.put(VIEW_KEY, json.dumps(view, separators=(",", ":")).encode())
        except StoreError:
            return False  # the keepers say so for every run; the next round tries again
        self._last, self._at = body, now
        return True


def _ageless(value: Any) -> Any:
    if isinstance(value, Mapping):
        skip = ("age_s", "published_at", "seen_at", "spent_usd", "words", "s_per_step", "step")
        return {key: _ageless(item) for key, item in value.items() if key not in skip}
    return [_ageless(item) for item in value] if isinstance(value, list) else value
