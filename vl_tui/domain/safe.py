"""The one gate where bytes from a box, a provider, a file or a log become text that may reach a terminal.

Terminals obey what they print: a log line can set the clipboard, rename the window or press keys (the terminal's
answers arrive as input). Textual and Rich pass nearly all of it through. So whole escape sequences are removed, and of
what is left only printable characters stay. Every step is linear in the input.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NewType

Safe = NewType("Safe", str)
"""Text that went through ``clean``."""

MOST = 16 * 1024
"""Characters of one line that are shown; the rest stays where it is stored."""
_MARKS = 4
"""Combining marks that one base character may carry."""

# Sequences with a string argument (OSC, DCS, SOS, PM, APC, ESC k) end at BEL or ST or, unterminated, with the line.
# CSI: parameters, intermediates, final. Then two-character escapes, and whatever ESC is left. C1 controls the same way.
_SEQUENCE = re.compile(
    r"(?:\x1b[\]PX^_k]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\x18\x1a]*(?:\x07|\x1b\\|\x9c|[\x18\x1a]|(?=\x1b)|$)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*(?:[@-~]|(?=[^0-~])|$)"
    r"|\x1b[ -/]*[0-~]?"
)
_INVISIBLE = dict.fromkeys(
    [
        0x115F, 0x1160, 0x3164, 0xFFA0,  # Hangul fillers: blank, but printable
        0x2800,  # blank braille
        0x17B4, 0x17B5, 0x034F, 0x180B, 0x180C, 0x180D, 0x180F,
        *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0),  # variation selectors
        *range(0x1F1E6, 0x1F200),  # regional indicators: pairs whose width terminals disagree on
    ],
    None,
)  # fmt: skip


def clean(data: bytes | str) -> Safe:
    """One line as safe text: UTF-8 with replacement, escape sequences gone, what the last carriage return left, tabs as
    spaces, no control, format, private or unassigned character, at most ``MOST`` characters."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    text = text.rstrip("\r\n")[: 8 * MOST]
    if text.isascii() and text.isprintable():
        return Safe(text[:MOST])
    text = _SEQUENCE.sub("", text)
    text = text[text.rfind("\r") + 1 :]
    text = text.expandtabs(8)[:MOST]
    if not text.isprintable():
        text = "".join(char for char in text if char.isprintable())
    return Safe(text if text.isascii() else _unicode(text))


def clean_block(data: bytes | str) -> Safe:
    """Several lines, each cleaned, joined by newlines. Lines end at the byte ``\\n`` only."""
    if isinstance(data, bytes):
        return Safe("\n".join(clean(line) for line in data.split(b"\n")))
    return Safe("\n".join(clean(line) for line in data.split("\n")))


def _unicode(text: str) -> str:
    """Without fillers and selectors, and with at most a few marks on a base."""
    text = text.translate(_INVISIBLE)
    marks = 0
    kept = []
    for char in text:
        if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me"):
            marks += 1
            if marks > _MARKS:
                continue
        else:
            marks = 0
        kept.append(char)
    return "".join(kept)
