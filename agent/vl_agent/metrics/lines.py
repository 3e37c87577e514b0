"""A training's output as lines, however its bytes arrive: ended by newline or carriage return, plain text only. Pure.

A progress bar draws itself again and again behind a carriage return: what stands after the last one is the live line.
"""

from __future__ import annotations

import re

MOST_LINE = 64 * 1024
"""Bytes of one line that are kept; the rest of it is passed over."""

_END = re.compile(rb"[\r\n]")
# OSC and its kin end at BEL or ST or with the line; then CSI; then whatever else begins with ESC.
_ESCAPE = re.compile(r"\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b\[[0-?]*[ -/]*[@-~]?|\x1b[ -/]*[0-~]?")


class Lines:
    """Takes bytes in pieces of any size; holds at most one unfinished line. How they were cut makes no difference."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[str]:
        """Lines that ``chunk`` ended and that say something."""
        *ended, rest = _END.split(chunk)
        found = []
        for part in ended:
            self._keep(part)
            text = self.live
            self._rest.clear()
            if text:
                found.append(text)
        self._keep(rest)
        return found

    @property
    def live(self) -> str:
        """The unfinished line as it stands: the bar that is being drawn."""
        return plain(_whole(bytes(self._rest)))

    def forget(self) -> None:
        """Bytes were left out: what is held is the beginning of a line whose end will not come."""
        self._rest.clear()

    def _keep(self, part: bytes) -> None:
        self._rest += part[: max(0, MOST_LINE - len(self._rest))]


def _whole(line: bytes) -> bytes:
    """A line that was cut at the limit, without the code point that was cut in two."""
    if len(line) < MOST_LINE:
        return line
    for back in range(1, 4):
        if line[-back] & 0xC0 == 0xC0:  # the first byte of a code point; whole ones have only followers after it
            needed = 2 if line[-back] < 0xE0 else 3 if line[-back] < 0xF0 else 4
            return line if back >= needed else line[:-back]
        if line[-back] & 0xC0 != 0x80:
            break
    return line


def plain(line: bytes | str) -> str:
    """A line's printable characters, tabs as spaces, without escape sequences; at its ends no blanks."""
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    if "\x1b" in text:
        text = _ESCAPE.sub("", text)
    text = text.replace("\t", " ")
    return ("".join(char for char in text if char.isprintable()) if not text.isprintable() else text).strip()
