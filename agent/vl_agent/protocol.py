"""What crosses between box, store and operator: keys, records, events and frames.

The one module that both sides import. Plain data and pure functions only: no I/O, no clock, no randomness.
Everything read here came from a store, a box or a file and is hostile until parsed: ``decode`` checks every type
and raises ``ProtocolError`` naming the field.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
import types
import typing
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

FORMAT = 1
"""Version of every record in the store. A reader refuses a higher one."""

PROTO_MIN, PROTO_MAX = 1, 1
"""Versions of the attach stream that this code speaks (see ``Hello``)."""

T = TypeVar("T")


class ProtocolError(ValueError):
    """Bytes from a store, a box or a file that are not what the protocol says."""


# --------------------------------------------------------------------------------------------------------------
# Names and keys
# --------------------------------------------------------------------------------------------------------------

RUN_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
"""Run and fleet names: they become store keys, box names and folder names, so nothing else is allowed in them."""

LEASE_KEY = "fleet/lease.json"
VIEW_KEY = "fleet/view.json"
INTENTS_PREFIX = "fleet/intents/"
RUNS_PREFIX = "runs/"


def check_name(name: str, what: str = "run") -> str:
    """Return ``name`` unchanged, or raise ``ProtocolError`` when it may not become part of a key or a path."""
    if not RUN_NAME.fullmatch(name):
        raise ProtocolError(
            f"{what} name {name!r}: use 1-40 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
        )
    return name


def run_prefix(run: str) -> str:
    return f"{RUNS_PREFIX}{check_name(run)}/"


def spec_key(run: str) -> str:
    return run_prefix(run) + "spec.json"


def workdir_key(run: str, digest: str) -> str:
    return run_prefix(run) + f"workdir/{digest}.tar"


def head_key(run: str) -> str:
    return run_prefix(run) + "head.json"


def launches_prefix(run: str) -> str:
    return run_prefix(run) + "launches/"


def launch_key(run: str, number: int) -> str:
    return launches_prefix(run) + f"{number:06d}.json"


def launch_end_key(run: str, number: int) -> str:
    return launches_prefix(run) + f"{number:06d}.end.json"


def blobs_prefix(run: str) -> str:
    return run_prefix(run) + "blobs/"


def blob_key(run: str, digest: str, epoch: int, counter: int) -> str:
    """A key that is written once, ever: the hash alone would be unsafe (docs/store-protocol.md, Blobs)."""
    return blobs_prefix(run) + f"{digest}-{epoch}-{counter}"


def checkpoints_prefix(run: str) -> str:
    return run_prefix(run) + "checkpoints/"


def manifest_key(run: str, step: int, epoch: int, counter: int) -> str:
    return checkpoints_prefix(run) + f"{step:012d}-{epoch}-{counter}.json"


def journal_prefix(run: str) -> str:
    return run_prefix(run) + "journal/"


def agent_writer(epoch: int) -> str:
    return f"agent-{epoch:06d}"


def controller_writer(generation: int) -> str:
    return f"controller-{generation:06d}"


def journal_key(run: str, writer: str, sequence: int) -> str:
    return journal_prefix(run) + f"{writer}/{sequence:08d}.jsonl"


def logs_prefix(run: str) -> str:
    return run_prefix(run) + "logs/"


def log_key(run: str, epoch: int, stream: str, offset: int) -> str:
    return logs_prefix(run) + f"{epoch:06d}/{stream}/{offset:016d}.zst"


def beat_key(run: str, epoch: int) -> str:
    return run_prefix(run) + f"beat/{epoch:06d}.json"


def intent_key(intent_id: str) -> str:
    return INTENTS_PREFIX + f"{intent_id}.json"


def intent_done_key(intent_id: str) -> str:
    return INTENTS_PREFIX + f"{intent_id}.done.json"


def box_name(fleet: str, run: str, number: int) -> str:
    """The box's name at its provider, and its client token: found again after a lost reply (invariants 7 and 8)."""
    return f"vl-{fleet}-{run}-{number}"


# --------------------------------------------------------------------------------------------------------------
# Records in the store
# --------------------------------------------------------------------------------------------------------------

HeadState = Literal["waiting", "starting", "running", "released", "finished", "failed", "stopped"]
"""See the table of head states in docs/store-protocol.md: which, who writes each, from which to which."""

ENDED_STATES: tuple[HeadState, ...] = ("finished", "failed", "stopped")
"""States after which no attempt follows without a person's word."""

Market = Literal["spot", "on_demand", "owned"]
HangPolicy = Literal["restart", "report"]


@dataclass(frozen=True)
class Kept:
    """A durable checkpoint that the head keeps: its manifest's key names everything else."""

    step: int
    epoch: int
    manifest: str
    pinned: bool = False
    suspect: str = ""
    """Why no attempt resumes from it without a person's word (a rollback to it): its training had just told a loss that
    is no finite number. It is kept, the newest one of the kind, but never becomes ``Head.checkpoint`` by itself: the
    durable step stays that of the last good one, and what is saved after a resume from there may be committed."""


@dataclass(frozen=True)
class Head:
    """The run's one mutable object. It changes only by compare-and-swap (see ``vl_agent.head``)."""

    epoch: int
    holder: str
    """Empty (nobody), a token (the controller's, for a box that may claim) or ``token/nonce`` (claimed)."""
    generation: int
    launch: int
    """The launch whose box holds this epoch; 0 before the first."""
    state: HeadState
    checkpoint: Kept | None
    kept: tuple[Kept, ...]
    sequence: int
    nonce: str
    detail: str = ""
    """Why the run is in this state, for a person (exit cause, who stopped it)."""
    format: int = FORMAT

    @property
    def attempt(self) -> int:
        """The newest attempt's number, 0 before the first: who ends a run or rolls it back begins an epoch without
        one."""
        return self.epoch if self.holder else max(0, self.epoch - 1)


@dataclass(frozen=True)
class BlobRef:
    """One file of a checkpoint: where it goes on disk (relative, POSIX), what it holds, where its bytes are."""

    path: str
    size: int
    hash: str
    """BLAKE3 of the content, 64 hex digits."""
    key: str
    mode: int = 0o644


@dataclass(frozen=True)
class Manifest:
    """A checkpoint's files. Immutable; named by ``Kept.manifest``."""

    run: str
    epoch: int
    step: int
    layout: str
    """Which framework wrote it (``vl_agent.checkpoints.layouts``): says what must point at it once it is restored."""
    name: str
    """The file or folder in the checkpoint folder that this checkpoint is."""
    files: tuple[BlobRef, ...]
    """In the order in which they are put back: what comes last in a save is last."""
    saved_at: float
    """Unix seconds by the box's clock; for showing only."""
    suspect: str = ""
    """As ``Kept.suspect``."""
    format: int = FORMAT


@dataclass(frozen=True)
class CheckpointPolicy:
    path: str
    """The folder that the training command writes checkpoints into, relative to the working folder."""
    every_s: float | None = None
    """The person's cadence in seconds; None: the training command's own, or the helper's default."""
    keep: int = 3
    """The newest durable ones that are kept; pinned ones stay as well."""
    keep_every: int | None = None
    """Also kept: the first durable checkpoint of each so many steps."""


@dataclass(frozen=True)
class RunSpec:
    """What the person submitted. Immutable, create-only; never holds a secret's value."""

    name: str
    fleet: str
    """Whose controller keeps it; empty: nobody's (``vl-agent run``)."""
    command: str
    """Run by ``/bin/sh -c`` in the working folder."""
    checkpoints: CheckpointPolicy
    setup: str = ""
    workdir: str = ""
    """BLAKE3 of the tar at ``workdir_key``, or empty: an empty folder."""
    gpu: str = ""
    """``A100:1``; empty: no GPU needed."""
    market: Market = "spot"
    deadline: float | None = None
    """Unix seconds."""
    budget_usd: float | None = None
    total_steps: int | None = None
    """How many steps the run has in all, where the person says so (run.yaml ``steps``) ; else learnt from events."""
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    on_hang: HangPolicy = "restart"
    """What is done about a training that surely hangs: restart (its attempt ends, the next begins) | report."""
    grace_s: float = 15.0
    submitted_at: float = 0.0
    format: int = FORMAT


LaunchWhy = Literal["submit", "failover", "migrate", "escalate", "rollback"]


@dataclass(frozen=True)
class LaunchRecord:
    """A box asked for: written (create-only) before the provider is called."""

    number: int
    provider: str
    offer: str
    place: str
    market: Market
    gpu: str
    usd_hour: float
    """USD per box-hour, as offered when it was chosen."""
    name: str
    generation: int
    created_at: float
    why: LaunchWhy = "submit"
    """What the box is for: a controller that comes after a crash goes on with the same purpose."""
    intent: str = ""
    """The person's intent that asked for it, where one did."""
    losses_per_hour: float = 0.0
    """Expected there when it was chosen: the agent's cadence follows from it. 0: not known."""
    format: int = FORMAT


LaunchEndReason = Literal[
    "lost",
    "preempted",
    "notice",
    "migrated",
    "escalated",
    "finished",
    "failed",
    "stopped",
    "no_capacity",
    "launch_failed",
    "prepare_failed",
    "superseded",
    "budget",
]


@dataclass(frozen=True)
class LaunchEnd:
    """A box given up: written (create-only) before it is terminated. A box with an end record never gets an epoch."""

    number: int
    reason: LaunchEndReason
    detail: str
    ended_at: float
    format: int = FORMAT


Phase = Literal["preparing", "prepared", "restoring", "training", "draining", "ended"]
"""What the supervisor is doing. draining: a notice or a stop; training is saving its last or its upload runs."""


@dataclass(frozen=True)
class Beat:
    """The supervisor's heartbeat: in ``beat/<epoch>.json`` and in BEAT frames. ``counter`` moves once a beat."""

    counter: int
    launch: int
    epoch: int
    """0 until the box holds an epoch."""
    phase: Phase
    step: int | None = None
    loss: float | None = None
    saved_step: int | None = None
    durable_step: int | None = None
    total_steps: int | None = None
    notice_deadline: float | None = None
    """Unix seconds by the box's clock at which the provider takes the box, once it said so."""
    notice_left_s: float | None = None
    """Seconds from this beat to that moment: what another machine can count from when it hears it."""
    store_error: str = ""
    """Not empty: the store can't be reached or refuses; the run trains but can't become durable (at risk)."""
    layout: str = ""
    """Whose checkpoints were recognised, by the framework's name; empty before the first save."""
    detail: str = ""
    """What it is doing, or why it ended, for a person."""
    at_risk: str = ""
    """Not empty: why the run can't become durable, or soon won't (the store's error is one of several reasons)."""
    at_risk_s: float = 0.0
    """Seconds since that began, by the box's monotonic clock."""
    format: int = FORMAT


IntentAction = Literal["migrate", "escalate", "stop", "pin", "unpin", "rollback"]


@dataclass(frozen=True)
class Intent:
    """A person's wish. It carries the epoch it was meant for and is answered once (``IntentDone``, create-only)."""

    id: str
    run: str
    epoch: int
    action: IntentAction
    offer: str = ""
    """Offer key chosen in the dialog; empty: the controller's choice."""
    step: int | None = None
    """For pin, unpin and rollback."""
    by: str = ""
    at: float = 0.0
    format: int = FORMAT


@dataclass(frozen=True)
class IntentDone:
    id: str
    result: Literal["done", "ignored", "refused"]
    detail: str
    generation: int
    at: float
    format: int = FORMAT


@dataclass(frozen=True)
class Lease:
    """Who keeps the fleet. ``generation`` grows with each holder."""

    generation: int
    owner: str
    """``host:pid`` for a person's eyes."""
    host: str
    """Boot id of the holder's host: with the file lock it proves on one host that an old holder is dead."""
    term_s: float
    sequence: int
    nonce: str
    format: int = FORMAT


# --------------------------------------------------------------------------------------------------------------
# Journal events
# --------------------------------------------------------------------------------------------------------------

# Every event is one JSON object on one line: t (unix seconds by the writer's clock, for showing only), kind, epoch (0
# before the first attempt), and the kind's own fields. Unknown kinds and fields are shown, never refused.
#
# Written by the agent (journal/agent-<epoch>):
#   claimed        launch, box, provider, notices, ends   the epoch is held by this box; how it ends itself, in words
#   restoring      step, bytes                        a checkpoint is being fetched
#   restored       step, bytes, seconds, source       source: store | prefetched | local; step None, source "": fresh
#   moved_aside    paths                              files in the checkpoint folder that are not the head's checkpoint
#   bad_checkpoint step, manifest, why                a blob missing or corrupt; the one before is used
#   passed_over    step, manifest, why                a suspect checkpoint: only a rollback to it resumes from it
#   credentials    how, warning                       what this box reaches the store with; never the values
#   environment    name, value, why                   a change to the training command's environment
#   started        pid, command                       the training command runs
#   step           step, loss, total [, source]       exact (JSON floats round-trip); loss None when not known, or no
#                  [, nonfinite]                      finite number: nonfinite then says which (nan, inf, -inf).
#                                                     source "log": read in the output, loss as printed, some left out
#   metrics        lr, grad_norm, throughput, unit,   every few seconds; what is not known is left out
#                  host {...}, gpu [{...}]
#   health         what, severity, words, subject     severity: ok (it is over) | warn | fatal
#   hang           stage, step, silent_s, usual_s,    stage: suspected | confirmed | over; evidence in words
#                  tool, stacks, log, gpu
#   layout         name, resume                       whose checkpoints these are; how the command resumes, in words
#   saved          step, name, bytes, took_s          whole on the box
#   durable        step, manifest, bytes, sent, took_s committed in the store (sent: bytes uploaded for it)
#   suspect        as durable, why                    kept in the store, but never resumed from without a rollback
#   commit_refused step, head_epoch, head_holder      fenced: the head has moved on
#   save_skipped   step, why                          by the helper (its writer is behind, or failed) or on the way up
#   cadence        every_s, why                       how often the script is asked to save from now on
#   cadence_advice every_s, why                       the script saves on its own schedule; this would lose less
#   notice         source, window_s, detail           the provider will take the box
#   notice_save    choice (fresh|upload|none), why, window_s, save_s, upload_s, pending_s   seconds; None: not known
#   notice_withdrawn source, detail                   it will not
#   advice         source, detail                     a softer word of the provider: nothing is ended for it
#   stopping       why                                the training command is being ended
#   exited         code, signal, cause, detail        cause: see ``Cause``
#   fenced         head_epoch, head_holder            this box's epoch is over; it ends itself
#   at_risk        reason, why                        trains but can't become durable, or soon won't
#   not_at_risk    after_s
#   warning        text
#   ended          state, detail                      the supervisor's last word
# Written by the controller (journal/controller-<generation>):
#   submitted      by                                 by whoever submits, as generation 0
#   controller     generation, owner                  a controller took the run over
#   launched       launch, provider, place, market, usd_hour, gpu, box_name, why, words, rejected ([{offer, why}])
#   attempt        launch, provider, place, market, usd_hour, why (submit|failover|migrate|escalate|restart)
#   verdict        launch, verdict, cause, words, evidence ([{witness, says, age_s}])
#   launch_ended   launch, reason, detail
#   terminated     launch, box
#   intent         id, action, result, detail
#   waiting        why, rejected                      no place to run now
#   verified       repeated, mismatched, first_mismatch  steps done again, compared with what the lost attempt logged
#   run_ended      state, detail, spent_usd

Cause = Literal[
    "finished",
    "user_error",
    "out_of_memory",
    "killed",
    "notice",
    "stopped",
    "fenced",
    "host_fault",
    "gpu_fault",
    "hang",
    "preempted",
    "link_only",
    "unknown",
]


@dataclass(frozen=True)
class Event:
    """One line of a journal."""

    t: float
    kind: str
    epoch: int
    fields: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> bytes:
        """The event as one line of JSON, newline included."""
        body = {"t": self.t, "kind": self.kind, "epoch": self.epoch, **self.fields}
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def parse_event(line: bytes) -> Event:
    """Parse one journal line. Raises ``ProtocolError``."""
    body = _json_object(line)
    t, kind, epoch = body.pop("t", None), body.pop("kind", None), body.pop("epoch", 0)
    if isinstance(t, bool) or not isinstance(t, (int, float)) or not isinstance(kind, str) or type(epoch) is not int:
        raise ProtocolError(f"journal line without t, kind or epoch: {line[:80]!r}")
    return Event(float(t), kind, epoch, body)


# --------------------------------------------------------------------------------------------------------------
# Frames of the attach stream
# --------------------------------------------------------------------------------------------------------------

FRAME = struct.Struct("!IBBHQI")
"""length of payload, type, flags, stream, offset of the payload's first byte in the stream, crc32 of the payload."""
MAX_PAYLOAD = 64 * 1024
CREDIT = 256 * 1024
"""Bytes of one stream that the agent sends ahead of the last ACK."""

FRAME_HELLO, FRAME_BEAT, FRAME_DATA, FRAME_ACK, FRAME_COMMAND, FRAME_REPLY, FRAME_EPOCH = 1, 2, 3, 4, 5, 6, 7
"""HELLO both ways (JSON ``Hello``); BEAT agent->operator (JSON ``Beat``) and, empty, operator->agent (I live); DATA
agent->operator (bytes of ``stream`` at ``offset``); ACK operator->agent (``offset`` = bytes of ``stream`` taken in);
COMMAND operator->agent, REPLY agent->operator (JSON, ``offset`` = the command's id); EPOCH agent->operator (``offset``
= the epoch whose streams follow from byte 0: the box began another attempt)."""

STREAM_NONE, STREAM_JOURNAL, STREAM_LOG = 0, 1, 2
STREAMS: Mapping[str, int] = {"journal": STREAM_JOURNAL, "log": STREAM_LOG}

PREAMBLE = b"\nVLATTACH1 "
"""The attach stream begins with PREAMBLE + nonce + newline; whatever a login shell printed before it is skipped."""


@dataclass(frozen=True)
class Frame:
    type: int
    stream: int = STREAM_NONE
    offset: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        if len(self.payload) > MAX_PAYLOAD:
            raise ProtocolError(f"frame payload of {len(self.payload)} bytes; at most {MAX_PAYLOAD}")
        head = FRAME.pack(len(self.payload), self.type, 0, self.stream, self.offset, zlib.crc32(self.payload))
        return head + self.payload


class FrameParser:
    """Turns chunks of bytes into frames; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[Frame]:
        """Frames completed by ``chunk``. Raises ``ProtocolError`` on a bad length or crc: drop the channel then."""
        self._buffer += chunk
        frames: list[Frame] = []
        at = 0
        while len(self._buffer) - at >= FRAME.size:
            length, kind, _flags, stream, offset, crc = FRAME.unpack_from(self._buffer, at)
            if length > MAX_PAYLOAD:
                raise ProtocolError(f"frame of {length} bytes announced; at most {MAX_PAYLOAD}")
            end = at + FRAME.size + length
            if len(self._buffer) < end:
                break
            payload = bytes(self._buffer[at + FRAME.size : end])
            if zlib.crc32(payload) != crc:
                raise ProtocolError("frame with a wrong crc")
            frames.append(Frame(kind, stream, offset, payload))
            at = end
        del self._buffer[:at]
        return frames


@dataclass(frozen=True)
class Hello:
    """First frame each way. ``have``: for the operator, bytes of each stream of ``epoch`` it already holds and how many
    it wants (a stream not named is not sent); for the agent, bytes of each stream there are."""

    proto_min: int
    proto_max: int
    agent: str
    """The agent's version hash; the operator's: its own version."""
    boot_id: str
    run: str
    launch: int
    epoch: int
    have: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class AgentConfig:
    """What a supervisor is started with, over stdin. Holds credentials: kept in memory and in the supervisor only."""

    run: str
    fleet: str
    launch: int
    store: str
    """Store URL, as in fleet.yaml."""
    store_options: Mapping[str, str] = field(default_factory=dict)
    """endpoint, region, access_key_id, secret_access_key, session_token where they apply."""
    store_how: str = ""
    """Where these come from, for the journal."""
    store_warning: str = ""
    """Not empty: they open more than they should."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Values of the run's secrets, for the training command's environment."""
    beat_s: float = 2.0
    """Seconds between beats into the store; over SSH once a second."""
    box: str = ""
    """Provider's box id, for the journal."""
    notices: tuple[str, ...] = ("auto",)
    """Sources of notices (``vl_agent.notices``): auto (what the box is recognised as), signal, aws, gcp, azure, slurm,
    or ``command:PROGRAM``."""
    owned: bool = False
    """The box is the person's own: it is never powered off."""
    losses_per_hour: float = 0.0
    """How often a box there is lost, for the cadence (``vl_agent.cadence``); 0: not known."""
    deadman_s: float | None = None
    """A box that is not owned ends itself, whatever it still holds, when the store has not answered it for so long;
    None: it waits for ever."""


BoxEnd = Literal["", "shutdown", "delete", "command", "none"]


@dataclass(frozen=True)
class BoxMarker:
    """What whoever launched a box writes onto it, in ``/etc/vl-agent/box.json``: where it is, as only they know.
    Nothing secret is in it; the agent believes it only when root or its own user wrote it."""

    provider: str
    """aws, gcp, azure, oci, runpod, vast, nebius, verda, lambda, kubernetes, slurm, or another name."""
    box: str = ""
    """The provider's id of the box."""
    notices: tuple[str, ...] = ()
    """Sources of notices; none: the provider's usual ones."""
    window_s: float | None = None
    """Seconds that a notice leaves, where it was asked for at launch or is known better than by provider."""
    end: BoxEnd = ""
    """How the box ends itself so that its bill ends: ``shutdown`` (launched so that an OS shutdown terminates it),
    ``delete`` (by the provider's API, with the credentials that the box has), ``command``; ``none``: it can't;
    empty: in the provider's usual way."""
    command: tuple[str, ...] = ()
    format: int = FORMAT


# --------------------------------------------------------------------------------------------------------------
# JSON <-> records
# --------------------------------------------------------------------------------------------------------------


def encode(record: Any) -> bytes:
    """A record (frozen dataclass) as JSON bytes. NaN and infinity are refused: they are not JSON."""
    return json.dumps(dataclasses.asdict(record), separators=(",", ":"), allow_nan=False).encode()


def decode(cls: type[T], raw: bytes | str | Mapping[str, Any]) -> T:
    """Parse JSON into the frozen dataclass ``cls``, checking every field's type. Fields it does not know are ignored
    (a newer writer of the same format may add some). Raises ``ProtocolError``."""
    body = raw if isinstance(raw, Mapping) else _json_object(raw)
    if isinstance(body.get("format"), int) and body["format"] > FORMAT:
        raise ProtocolError(
            f"{cls.__name__} has format {body['format']}, this version reads up to {FORMAT}: use a newer vl-tui"
        )
    return typing.cast(T, _record(cls, body, cls.__name__))


_MOST_DIGITS = 20
_MOST = math.nextafter(math.inf, 0)


def _json_object(raw: bytes | str) -> dict[str, Any]:
    try:
        body = json.loads(raw, parse_constant=_no_constant, parse_int=_integer, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ProtocolError("not a JSON object")
    return body


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _integer(word: str) -> int:
    """Nothing here needs more than 64 bits, and a longer one fails wherever it is turned into a float."""
    if len(word) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(word)} digits")
    return int(word)


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"{word[:20]} is out of range")
    return number


def _record(cls: Any, body: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for part in dataclasses.fields(cls):
        if part.name in body:
            values[part.name] = _value(hints[part.name], body[part.name], f"{where}.{part.name}")
        elif part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING:
            raise ProtocolError(f"{where}.{part.name} is missing")
    return cls(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    """``value`` as ``hint`` wants it; the hints used in this module are all it knows."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        rest = [arg for arg in args if arg is not type(None)]
        return _value(rest[0], value, where)
    if origin is Literal:
        if value in args and isinstance(value, str):
            return value
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    elif origin in (dict, Mapping):
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: _value(args[1], item, f"{where}.{key}") for key, item in value.items()}
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return _record(hint, value, where)
    elif hint is Any:
        return value
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _MOST:
            return float(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise ProtocolError(f"{where}: {str(value)[:60]!r} is not {getattr(hint, '__name__', hint)}")
