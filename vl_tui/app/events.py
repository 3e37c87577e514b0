"""Journal events as a line for a person: glyph, role, words. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vl_agent.protocol import Event

from vl_tui.app import words

Told = tuple[str, str, str]
MOST = 300
"""Characters of one event that are shown."""


def told(event: Event) -> Told:
    """Glyph, role and words. An event of an unknown kind is shown by its name and fields."""
    find = _KINDS.get(event.kind)
    if find is not None:
        glyph, role, text = find(event, event.fields)
        return glyph, role, text[:MOST]
    plain = " ".join(f"{k}={_text(event.fields, k)}" for k in event.fields if _text(event.fields, k))
    return " ", "dim", f"{event.kind} {plain}"[:MOST]


def _launched(event: Event, f: Any) -> Told:
    price = _float(f.get("usd_hour"))
    cost = "" if price is None else f" at {words.usd(price)}/h"
    box = f"box {_text(f, 'launch')} at {_place(f)} {_market(f)}{cost}"
    return "┄", "prov", _joined(" · ", f"{_text(f, 'why')}: {box}", _text(f, "words"))


def _verdict(event: Event, f: Any) -> Told:
    cause = _text(f, "cause").replace("_", " ")
    if f.get("verdict") == "lost":
        return "✗", "lost", f"attempt {event.epoch} lost ({cause}): {_text(f, 'words')}"
    return "?", "notice", f"attempt {event.epoch} {_text(f, 'verdict').replace('_', ' ')}: {_text(f, 'words')}"


def _restored(event: Event, f: Any) -> Told:
    if f.get("step") is None:
        return "═", "restore", f"attempt {event.epoch} begins at the beginning"
    return "═", "restore", f"attempt {event.epoch} resumes from step {_number(f.get('step'))} ({_text(f, 'source')})"


def _durable(event: Event, f: Any) -> Told:
    took = _float(f.get("took_s"))
    seconds = "" if took is None else f" in {took:.1f} s"
    return "●", "durable", f"step {_number(f.get('step'))} durable · {_size(f.get('bytes'))}{seconds}"


def _notice(event: Event, f: Any) -> Told:
    window = _float(f.get("window_s"))
    within = "" if window is None else f" within {window:.0f} s"
    return "▲", "notice", f"notice: its provider takes the box{within} ({_text(f, 'source')})"


def _credentials(event: Event, f: Any) -> Told:
    if f.get("warning"):
        return "▲", "notice", f"attempt {event.epoch}: {_text(f, 'warning')}"
    return "·", "dim", f"attempt {event.epoch} reaches the store by {_text(f, 'how') or 'what its box has'}"


def _ended(event: Event, f: Any) -> Told:
    reason = _text(f, "reason")
    glyph, role = {
        "migrated": ("⇄", "migrate"), "escalated": ("⇑", "escalate"), "finished": ("✓", "durable"),
    }.get(reason, ("·", "dim"))  # fmt: skip
    return glyph, role, f"box {_text(f, 'launch')} given up, {_reason(reason, _text(f, 'detail'))}"


def _exited(event: Event, f: Any) -> Told:
    return "·", "dim", f"the command ended, {_reason(_text(f, 'cause'), _text(f, 'detail'))}"


def _verified(event: Event, f: Any) -> Told:
    wrong = f.get("mismatched")
    if wrong:
        return (
            "✗",
            "lost",
            f"resume NOT verified: {_number(wrong)} of {_number(f.get('repeated'))} repeated steps differ",
        )
    return "✓", "durable", f"resume verified on {_steps(f.get('repeated'))} done again"


def _intent(event: Event, f: Any) -> Told:
    action, result = _text(f, "action"), _text(f, "result")
    marks = {"migrate": ("⇄", "migrate"), "escalate": ("⇑", "escalate"), "stop": ("■", "dim")}
    glyph, role = marks.get(action, ("·", "dim"))
    begun = "begins" if result == "done" and action in ("migrate", "escalate") else result
    return glyph, role, _joined(": ", f"{action} {begun}", _text(f, "detail"))


def _health(event: Event, f: Any) -> Told:
    severity = f.get("severity")
    glyph, role = {"ok": ("●", "durable"), "fatal": ("✗", "lost")}.get(str(severity), ("▲", "notice"))
    return glyph, role, _text(f, "words")


def _hang(event: Event, f: Any) -> Told:
    silent = _float(f.get("silent_s")) or 0.0
    if f.get("stage") == "over":
        return "●", "durable", f"attempt {event.epoch} goes on after {words.age(silent)} without a step"
    where = f": {f['where']}" if isinstance(f.get("where"), str) and f["where"] else ""
    glyph, role, verb = ("✗", "lost", "hangs") if f.get("stage") == "confirmed" else ("▲", "notice", "may hang")
    return glyph, role, f"attempt {event.epoch} {verb}: no step for {words.age(silent)}{where}"


def _run_ended(event: Event, f: Any) -> Told:
    state = _text(f, "state")
    glyph, role = ("✓", "durable") if state == "finished" else ("■", "dim")
    return glyph, role, _joined(" · ", f"run {state}", words.usd(_float(f.get("spent_usd"))), _text(f, "detail"))


def _every(f: Any) -> str:
    return words.age(_float(f.get("every_s")))


def _place(f: Any) -> str:
    return f"{_text(f, 'provider')} {_text(f, 'place')}"


def _market(f: Any) -> str:
    return _text(f, "market").replace("_", "-")


def _text(f: Any, name: str) -> str:
    value = f.get(name)
    return value[:MOST] if isinstance(value, str) else str(value) if isinstance(value, (bool, float)) else _whole(value)


def _whole(value: Any) -> str:
    return str(value) if type(value) is int and abs(value) < 2**63 else ""


def _reason(reason: str, detail: str) -> str:
    """A reason and its detail, without what the detail says again: each who passed it on put the reason before it."""
    while detail.partition(": ")[0] in (*_PASSED_ON, reason) and ": " in detail:
        detail = detail.partition(": ")[2]
    return _joined(": ", reason.replace("_", " "), detail)


_PASSED_ON = ("stopped", "notice", "migrate", "escalate", "stop")


def _joined(between: str, *parts: str) -> str:
    return between.join(part for part in parts if part)


def _number(value: Any) -> str:
    return words.count(value) if type(value) is int else "?"


def _steps(value: Any) -> str:
    return words.steps(value) if type(value) is int else "? steps"


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, float) or (type(value) is int and abs(value) < 2**53) else None


def _size(value: Any) -> str:
    if type(value) is not int or abs(value) > 2**63:
        return "?"
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
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
    "exited": _exited,
    "intent": _intent,
    "submitted": lambda e, f: ("·", "dim", f"submitted by {_text(f, 'by')}"),
    "attempt": lambda e, f: ("·", "text", f"attempt {e.epoch} at {_place(f)} ({_text(f, 'why')})"),
    "started": lambda e, f: ("►", "train", f"attempt {e.epoch} trains (pid {_text(f, 'pid')})"),
    "commit_refused": lambda e, f: ("✗", "lost", f"a commit of attempt {e.epoch} was refused: the run has moved on"),
    "fenced": lambda e, f: ("✗", "lost", f"attempt {e.epoch} fenced: its box stops"),
    "bad_checkpoint": lambda e, f: ("✗", "lost", f"checkpoint {_number(f.get('step'))} is bad: {_text(f, 'why')}"),
    "at_risk": lambda e, f: ("▲", "notice", f"at risk ({_text(f, 'reason') or 'store'}): {_text(f, 'why')}"),
    "not_at_risk": lambda e, f: ("●", "durable", "no longer at risk"),
    "health": _health,
    "hang": _hang,
    "waiting": lambda e, f: ("┄", "prov", f"waits: {_text(f, 'why')}"),
    "controller": lambda e, f: ("·", "dim", f"controller {_text(f, 'generation')} takes over ({_text(f, 'owner')})"),
    "moved_aside": lambda e, f: ("·", "dim", "files that are not the checkpoint's were moved aside"),
    "warning": lambda e, f: ("▲", "notice", _text(f, "text")),
    "credentials": _credentials,
    "cadence": lambda e, f: ("·", "dim", f"saves every {_every(f)}: {_text(f, 'why')}"),
    "cadence_advice": lambda e, f: ("·", "notice", f"a better cadence is {_every(f)}: {_text(f, 'why')}"),
}
