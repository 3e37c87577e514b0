"""docs/store-protocol.md is the page to write a second implementation from: it names what ``protocol.py`` has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from vl_agent import protocol

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "store-protocol.md").read_text()
KEYS = PAGE.partition("## Keys")[2].partition("```")[2].partition("```")[0].strip().splitlines()
NAMED = {word for span in re.findall(r"`([^`\n]+)`", PAGE) for word in re.findall(r"\w+", span)}

DIGEST = "0123456789abcdef" * 4
EXAMPLES = [
    protocol.spec_key("char-lm"),
    protocol.workdir_key("char-lm", DIGEST),
    protocol.head_key("char-lm"),
    protocol.launch_key("char-lm", 3),
    protocol.launch_end_key("char-lm", 3),
    protocol.blob_key("char-lm", DIGEST, 2, 17),
    protocol.manifest_key("char-lm", 450, 2, 18),
    protocol.journal_key("char-lm", protocol.agent_writer(2), 5),
    protocol.journal_key("char-lm", protocol.controller_writer(4), 0),
    protocol.log_key("char-lm", 2, "log", 1 << 20),
    protocol.beat_key("char-lm", 2),
    protocol.LEASE_KEY,
    protocol.VIEW_KEY,
    protocol.intent_key("char-lm-2-stop-0"),
    protocol.intent_done_key("char-lm-2-stop-0"),
]

RECORDS = [
    protocol.Head, protocol.Kept, protocol.Manifest, protocol.BlobRef, protocol.Part, protocol.RunSpec,
    protocol.CheckpointPolicy, protocol.LaunchRecord, protocol.LaunchEnd, protocol.Beat, protocol.Intent,
    protocol.IntentDone, protocol.Lease, protocol.Hello,
]  # fmt: skip

WORDS = [protocol.HeadState, protocol.Market, protocol.LaunchWhy, protocol.LaunchEndReason, protocol.Phase]


def as_pattern(line: str) -> str:
    """A line of the page's list of keys as a regular expression: ``<n:06>`` is six digits."""
    pattern = re.escape(line.split()[0])
    pattern = re.sub(r"<\w+:(\d+)>", lambda found: rf"\d{{{int(found[1])}}}", pattern)
    pattern = pattern.replace("<hash>", "[0-9a-f]{64}").replace("<epoch>", r"\d+").replace("<i>", r"\d+")
    return re.sub(r"<(run|id)>", r"[a-z0-9-]+", pattern)


@pytest.mark.parametrize("key", EXAMPLES)
def test_every_key_has_one_line_on_the_page(key: str) -> None:
    fit = [line for line in KEYS if re.fullmatch(as_pattern(line), key)]
    assert len(fit) == 1, fit


def test_every_line_of_keys_is_a_key_of_the_protocol() -> None:
    unknown = [line for line in KEYS if not any(re.fullmatch(as_pattern(line), key) for key in EXAMPLES)]
    assert [line.split()[0] for line in unknown] == ["fleet/proof/<hex>"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_is_on_the_page(record: Any) -> None:
    assert {field.name for field in dataclasses.fields(record)} <= NAMED


@pytest.mark.parametrize("words", WORDS)
def test_every_word_that_a_field_may_hold_is_on_the_page(words: Any) -> None:
    assert [word for word in get_args(words) if not re.search(rf"\b{word}\b", PAGE)] == []


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:agent|tests|vl_tui)/[\w./]+\.\w+)`", PAGE)
    assert len(named) > 12
    assert [name for name in named if not (ROOT / name).exists()] == []
