"""Journal events as a line for a person: glyph, role, words. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vl_agent.protocol import Event

from vl_tui.app import words

Told = tuple[str, str, str]


def told(event: Event) -> Told:
    """Glyph, role and words. An event of an unknown kind is shown by its name and fields."""
    find = _KINDS.get(event.kind)
    if find is not None:
        return find(event, event.fields)
    plain = " ".join(f"{k}={v}" for k, v in event.fields.items() if isinstance(v, (str, int, float)))
    return " ", "dim", f"{event.kind} {plain}"


def _launched(event: Event, f: Any) -> Told:
    price = f.get("usd_hour")
    cost = f" at ${price:.2f}/h" if isinstance(price, (int, float)) else ""
    box = f"box {f.get('launch')} at {_place(f)} {f.get('market')}{cost}"
    return "┄", "prov", f"{f.get('why')}: {box} · {f.get('words', '')}"


def _verdict(event: Event, f: Any) -> Told:
    if f.get("verdict") == "lost":
        return "✗", "lost", f"attempt {event.epoch} lost ({f.get('cause')}): {f.get('words')}"
    return "?", "notice", f"attempt {event.epoch}: {f.get('verdict')}: {f.get('words')}"


def _restored(event: Event, f: Any) -> Told:
    if f.get("step") is None:
        return "═", "restore", f"attempt {event.epoch} begins at the beginning"
    return "═", "restore", f"attempt {event.epoch} resumes from step {_number(f.get('step'))} ({f.get('source')})"


def _durable(event: Event, f: Any) -> Told:
    took = f.get("took_s")
    seconds = f" in {took:.1f} s" if isinstance(took, (int, float)) else ""
    return "●", "durable", f"step {_number(f.get('step'))} durable · {_size(f.get('bytes'))}{seconds}"


def _notice(event: Event, f: Any) -> Told:
    return "▲", "notice", f"its provider reclaims the box in {f.get('window_s')} s ({f.get('source')})"


def _credentials(event: Event, f: Any) -> Told:
    if f.get("warning"):
        return "▲", "notice", f"attempt {event.epoch}: {f.get('warning')}"
    return "·", "dim", f"attempt {event.epoch} reaches the store by {f.get('how') or 'what its box has'}"


def _ended(event: Event, f: Any) -> Told:
    reason = str(f.get("reason"))
    glyph, role = {
        "migrated": ("⇄", "migrate"), "escalated": ("⇑", "escalate"), "finished": ("✓", "durable"),
    }.get(reason, ("·", "dim"))  # fmt: skip
    return glyph, role, f"box {f.get('launch')} given up: {reason}: {f.get('detail')}"


def _verified(event: Event, f: Any) -> Told:
    wrong = f.get("mismatched")
    if wrong:
        return "✗", "lost", f"resume NOT verified: {wrong} of {f.get('repeated')} repeated steps differ"
    return "✓", "durable", f"resume verified on {f.get('repeated')} repeated steps"


def _run_ended(event: Event, f: Any) -> Told:
    state = str(f.get("state"))
    glyph, role = ("✓", "durable") if state == "finished" else ("■", "dim")
    return glyph, role, f"run {state} · {words.usd(_float(f.get('spent_usd')))} · {f.get('detail')}"


def _place(f: Any) -> str:
    return f"{f.get('provider')} {f.get('place')}"


def _number(value: Any) -> str:
    return words.count(value) if type(value) is int else "?"


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _size(value: Any) -> str:
    if type(value) is not int:
        return "?"
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value} B"


_KINDS: dict[str, Callable[[Event, Any], Told]] = {
    "launched": _launched,
    "verdict": _verdict,
    "restored": _restored,
    "durable": _durable,
    "notice": _notice,
    "launch_ended": _ended,
    "verified": _verified,
    "run_ended": _run_ended,
    "submitted": lambda e, f: ("·", "dim", f"submitted by {f.get('by')}"),
    "attempt": lambda e, f: ("►", "train", f"attempt {e.epoch} at {_place(f)} ({f.get('why')})"),
    "started": lambda e, f: ("►", "train", f"attempt {e.epoch} trains (pid {f.get('pid')})"),
    "commit_refused": lambda e, f: ("✗", "lost", f"a commit of attempt {e.epoch} was refused: the run has moved on"),
    "fenced": lambda e, f: ("✗", "lost", f"attempt {e.epoch} fenced: its box stops"),
    "bad_checkpoint": lambda e, f: ("✗", "lost", f"checkpoint {_number(f.get('step'))} is bad: {f.get('why')}"),
    "at_risk": lambda e, f: ("▲", "notice", f"at risk: can't become durable: {f.get('why')}"),
    "not_at_risk": lambda e, f: ("●", "durable", "durable again"),
    "exited": lambda e, f: ("·", "dim", f"the command ended: {f.get('cause')}: {f.get('detail')}"),
    "intent": lambda e, f: ("⇄", "migrate", f"{f.get('action')}: {f.get('result')}: {f.get('detail')}"),
    "waiting": lambda e, f: ("┄", "prov", f"waits: {f.get('why')}"),
    "controller": lambda e, f: ("·", "dim", f"controller {f.get('generation')} takes over ({f.get('owner')})"),
    "moved_aside": lambda e, f: ("·", "dim", "files that are not the checkpoint's were moved aside"),
    "warning": lambda e, f: ("▲", "notice", str(f.get("text"))),
    "credentials": _credentials,
    "cadence": lambda e, f: ("○", "dim", f"saves every {_float(f.get('every_s')) or 0:.0f} s: {f.get('why')}"),
    "cadence_advice": lambda e, f: (
        "○",
        "notice",
        f"a better cadence: {_float(f.get('every_s')) or 0:.0f} s: {f.get('why')}",
    ),
}
