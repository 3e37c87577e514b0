"""A run's state as one word with one glyph, for every screen alike. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from vl_tui.app.facts import RunFacts


@dataclass(frozen=True)
class Word:
    glyph: str
    text: str
    role: str


TRAINING = Word("►", "training", "train")
NOTICE = Word("▲", "notice", "notice")
RESTORING = Word("═", "restoring", "restore")
PROVISIONING = Word("┄", "starting", "prov")
READY = Word("┄", "ready", "prov")
WAITING = Word("┄", "waiting", "prov")
MOVING = Word("⇄", "moving", "migrate")
SAVING = Word("○", "saving", "durable")
UNKNOWN = Word("?", "unknown", "notice")
LOST = Word("✗", "lost", "lost")
AT_RISK = Word("▲", "at risk", "notice")
FINISHED = Word("✓", "finished", "durable")
FAILED = Word("✗", "failed", "lost")
STOPPED = Word("■", "stopped", "dim")


def word(run: RunFacts) -> Word:
    """Looked at in this order: ended; without a box; what the controller judges; what the box says it does."""
    ended = {"finished": FINISHED, "failed": FAILED, "stopped": STOPPED}.get(run.head.state)
    if ended is not None:
        return ended
    holder = next((box for box in run.boxes if box.get("launch") == run.head.launch), None)
    if run.head.state in ("waiting", "released"):
        coming = any(not box.get("given_up") for box in run.boxes)
        return PROVISIONING if coming else MOVING if run.head.state == "released" else WAITING
    if run.head.state == "starting":
        return RESTORING
    verdict = run.text("verdict")
    if verdict in ("lost", "supervisor_dead"):
        return LOST
    if verdict in ("suspect", "unknown"):
        return UNKNOWN
    if verdict == "at_risk":
        return AT_RISK
    phase = str((holder or {}).get("phase", ""))
    if noticed(run):
        return NOTICE
    if phase in ("restoring", "prepared", "preparing"):
        return RESTORING
    if phase == "draining":
        return SAVING
    return TRAINING


def noticed(run: RunFacts) -> bool:
    """Whether the attempt under way has had its provider's notice."""
    attempts = run.timeline.attempts
    return bool(attempts) and attempts[-1].live and any(mark.kind == "notice" for mark in attempts[-1].marks)
