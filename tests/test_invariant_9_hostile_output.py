"""Invariant 9: nothing that a box prints can run code, reach the clipboard or corrupt the operator's terminal."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vl_tui.domain.safe import MOST, clean

ESC = b"\x1b"
HOSTILE = {
    "clipboard": b"a\x1b]52;c;cm0gLXJm\x07b",
    "clipboard, ended by ST": b"a\x1b]52;c;cm0gLXJm\x1b\\b",
    "clipboard query": b"a\x1b]52;c;?\x07b",
    "link": b"a\x1b]8;;file:///etc/passwd\x1b\\b\x1b]8;;\x1b\\",
    "title": b"a\x1b]0;title\x07b",
    "title report": b"a\x1b[21tb",
    "unterminated title": b"ab\x1b]0;for ever",
    "palette": b"a\x1b]4;1;?\x07b",
    "notification": b"a\x1b]777;notify;x;y\x07b",
    "file": b"a\x1b]1337;File=name=eA==:AAAA\x07b",
    "sixel": b"a\x1bPq#0;2;0;0;0\x1b\\b",
    "tmux passthrough": b"a\x1bPtmux;\x1b\x1b]52;c;eA==\x07\x1b\\b",
    "graphics": b"a\x1b_Gf=24;AAAA\x1b\\b",
    "privacy message": b"a\x1b^words\x1b\\b",
    "screen title": b"a\x1bktitle\x1b\\b",
    "device attributes": b"a\x1b[cb",
    "cursor report": b"a\x1b[6nb",
    "clear": b"a\x1b[2J\x1b[3J\x1b[Hb",
    "alternate screen": b"a\x1b[?1049lb",
    "mouse on": b"a\x1b[?1003hb",
    "cursor off": b"a\x1b[?25lb",
    "repeat flood": b"a\x1b[99999999bb",
    "kitty keys": b"a\x1b[>31ub",
    "reset": b"a\x1bcb",
    "charset": b"a\x1b(0b",
    "shift out": b"a\x0eb",
    "eight-bit CSI": "a\x9b2Jb".encode(),
    "eight-bit OSC": "a\x9d52;c;eA==\x9cb".encode(),
    "raw C1": b"a\x9bb",
    "bell": b"a\x07b",
    "backspace": b"a\x08b",
    "nul": b"a\x00b",
    "enquiry": b"a\x05b",
    "delete": b"a\x7fb",
    "cancelled sequence": b"a\x1b[3\x18b",
    "lone escape": b"ab\x1b",
    "right to left": "a\u202eb".encode(),
    "isolate": "a\u2066b".encode(),
    "zero width": "a\u200b\u200d\ufeffb".encode(),
    "tags": "a\U000e0041b".encode(),
    "line separator": "a\u2028b".encode(),
    "next line": "a\u0085b".encode(),
    "fillers": "a\u3164\u115f\u2800b".encode(),
    "overlong": b"a\xc0\xafb",
    "surrogate": b"a\xed\xa0\x80b",
    "colours": b"\x1b[1;31ma\x1b[0mb",
}


def is_harmless(text: str) -> bool:
    return text.isprintable() and not any(unicodedata.category(char) in ("Cc", "Cf", "Co", "Cn", "Cs") for char in text)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_becomes_harmless_text(name: str) -> None:
    text = clean(HOSTILE[name])
    assert is_harmless(text)
    assert text[0] == "a"
    assert text.replace("\ufffd", "")[-1] == "b"
    assert all(word not in text for word in ("52;", "8;;", "title", "2J", "1049", "notify", "AAAA"))


@given(st.binary(max_size=300))
def test_no_bytes_get_through_as_anything_but_printable_text(data: bytes) -> None:
    assert is_harmless(clean(data))


@given(st.text(max_size=300))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=300))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


def test_a_progress_bar_shows_its_last_state() -> None:
    assert clean(b"\r 10%|#   |\r 50%|##  |\n") == " 50%|##  |"


def test_a_flood_of_marks_is_cut() -> None:
    assert len(clean("a" + "\u0301" * 500)) == 5


@pytest.mark.parametrize("escape", [b"\x1b]", b"\x1b", b"\x1bP", b"\x1b["], ids=repr)
def test_a_bomb_of_escapes_costs_little(escape: bytes) -> None:
    began = time.process_time()
    assert len(clean((escape * 1_000_000)[:1_000_000])) <= MOST
    assert time.process_time() - began < 5  # what is quadratic takes minutes
