"""The open run's log: bytes as the boxes wrote them, cleaned only when a line is drawn. One writer, one reader."""

from __future__ import annotations

from vl_tui.domain.safe import Safe, clean

MOST_LINES = 200_000
"""Older lines are let go: they are in the store."""


class LogStore:
    """Lines of all attempts, one after the other. The writer is the facts' thread, the reader the screen."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._rest: dict[int, bytes] = {}
        self._sizes: dict[int, int] = {}
        self.dropped = 0
        self.link = ""

    def clear(self) -> None:
        self._lines, self._rest, self._sizes, self.dropped, self.link = [], {}, {}, 0, ""

    def size(self, epoch: int) -> int:
        """Bytes held of an attempt's log: the cursor to go on from."""
        return self._sizes.get(epoch, 0)

    def add(self, epoch: int, offset: int, chunk: bytes) -> None:
        """Take in bytes of an attempt's log; what is held already is passed over."""
        have = self._sizes.get(epoch)
        if have is None:
            self._lines.append(f"\x00attempt {epoch}".encode())
            have = offset
        fresh = chunk[max(0, have - offset) :]
        if not fresh:
            return
        self._sizes[epoch] = offset + len(chunk)
        *lines, rest = (self._rest.get(epoch, b"") + fresh).split(b"\n")
        self._rest[epoch] = rest[-65536:]
        self._lines.extend(lines)
        extra = len(self._lines) - MOST_LINES
        if extra > MOST_LINES // 10:
            self._lines = self._lines[extra:]
            self.dropped += extra

    def __len__(self) -> int:
        return len(self._lines) + (1 if any(self._rest.values()) else 0)

    def line(self, index: int) -> tuple[Safe, str]:
        """A line, safe to print, and its role."""
        lines = self._lines
        if index < len(lines):
            raw = lines[index]
            if raw.startswith(b"\x00attempt "):
                return Safe(f"── {raw[1:].decode()} ──"), "faint"
        else:
            raw = next((rest for epoch, rest in sorted(self._rest.items(), reverse=True) if rest), b"")
        return clean(raw), "text"
