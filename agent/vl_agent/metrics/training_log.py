"""The training's log file, read as it grows, for the figures in it. Bounded: what comes too fast is passed over."""

from __future__ import annotations

import threading
from pathlib import Path

from vl_agent.metrics.lines import plain
from vl_agent.metrics.progress import Output, Progress

_MOST = 64 * 1024
"""Bytes read at a time: some 50 ms of work for the densest."""
_MOST_BEHIND = 8 * _MOST
_TAIL = 32 * 1024


class TrainingLog:
    """One append-only file from its beginning. ``look`` blocks: call it in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._output = Output()
        self._inside = False
        self._one = threading.Lock()
        self.behind = False
        """There was more than one look takes."""
        self.passed_over = 0
        """Bytes that were not looked at, because more came than can be read."""

    def look(self) -> Progress:
        """What the log says by now. A look that was given up goes on in its thread: the next waits for it."""
        with self._one:
            return self._look()

    def _look(self) -> Progress:
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if size - self._offset > _MOST_BEHIND:
                    self._skip(size - _MOST)
                file.seek(self._offset)
                chunk = file.read(_MOST)
        except OSError:
            return self._output.now
        self._offset += len(chunk)
        self.behind = size > self._offset
        if self._inside:  # of a line whose beginning was passed over nothing is believed
            ends = [at for at in (chunk.find(b"\n"), chunk.find(b"\r")) if at >= 0]
            chunk, self._inside = (chunk[min(ends) :], False) if ends else (b"", True)
        self._output.feed(chunk)
        return self._output.now

    def _skip(self, to: int) -> None:
        self.passed_over += to - self._offset
        self._offset = to
        self._output.forget()
        self._inside = True

    def last_lines(self, number: int) -> list[str]:
        """The end of the log in plain lines, each of at most 200 characters. Blocks."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _TAIL))
                text = file.read()
        except OSError:
            return []
        lines = [plain(line)[:200] for line in text.replace(b"\r", b"\n").split(b"\n")]
        return [line for line in lines if line][-number:]
