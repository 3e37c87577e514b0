"""The open run's log: bytes as the boxes wrote them, cleaned only when a line is drawn. One writer, one reader."""

from __future__ import annotations

from vl_tui.domain.safe import Safe, clean

MOST_LINES = 200_000
MOST_BYTES = 64 << 20
"""Older lines are let go: they are in the store."""
MOST_OF_A_LINE = 64 << 10


class LogStore:
    """Lines of all attempts, one after the other. The writer is the facts' thread, the reader the screen."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._lines: list[bytes | int] = []
        """What a box wrote; a number is the heading of that attempt."""
        self._rest: dict[int, bytes] = {}
        self._sizes: dict[int, int] = {}
        self._held = 0
        self.dropped = 0
        """Lines let go."""
        self.link = ""
        """How the channel to the box is, in words; empty: as it should be, or there is none."""

    def size(self, epoch: int) -> int:
        """Bytes taken in of an attempt's log: the cursor to go on from."""
        return self._sizes.get(epoch, 0)

    def add(self, epoch: int, offset: int, chunk: bytes) -> None:
        """Take in bytes of an attempt's log; what is held already is passed over."""
        have = self._sizes.get(epoch)
        if have is None:
            self._begin(epoch)
            have = offset
        fresh = chunk[max(0, have - offset) :]
        if not fresh:
            return
        self._sizes[epoch] = offset + len(chunk)
        *lines, rest = (self._rest.get(epoch, b"") + fresh).split(b"\n")
        self._rest[epoch] = rest[-MOST_OF_A_LINE:]
        for line in lines:
            self._keep(line[-MOST_OF_A_LINE:])
        self._let_go()

    def _begin(self, epoch: int) -> None:
        """A line that the attempt before did not come to end stands before the heading of the next."""
        for other, rest in self._rest.items():
            if rest:
                self._keep(rest)
                self._rest[other] = b""
        self._lines.append(epoch)

    def _keep(self, line: bytes) -> None:
        self._lines.append(line)
        self._held += len(line)

    def _let_go(self) -> None:
        """A tenth at a time: each time costs a copy of the list."""
        while len(self._lines) > MOST_LINES or self._held > MOST_BYTES:
            few = max(1, len(self._lines) // 10)
            self._held -= sum(len(line) for line in self._lines[:few] if isinstance(line, bytes))
            self._lines = self._lines[few:]
            self.dropped += few

    def __len__(self) -> int:
        return len(self._lines) + (1 if any(list(self._rest.values())) else 0)

    def line(self, index: int) -> tuple[Safe, str]:
        """A line, safe to print, and its role."""
        lines = self._lines
        if index < len(lines):
            raw = lines[index]
            if isinstance(raw, int):
                return Safe(f"── attempt {raw} ──"), "faint"
        else:
            rests = dict(self._rest)  # the writer may begin another attempt meanwhile
            raw = next((rests[epoch] for epoch in sorted(rests, reverse=True) if rests[epoch]), b"")
        return clean(raw), "text"
