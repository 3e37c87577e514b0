"""``vl-tui logs``: a run's log, attempt after attempt, from the store; with --follow until the run ends."""

from __future__ import annotations

import argparse
import asyncio
import codecs
import sys

from vl_agent.protocol import ENDED_STATES
from vl_agent.store import NotFound, Store

from vl_tui.commands.opened import head_of, with_store
from vl_tui.config import load_fleet
from vl_tui.domain.safe import clean
from vl_tui.store import logs, runs

POLL_S = 1.0


def run(args: argparse.Namespace) -> int:
    return with_store(load_fleet(args.fleet), lambda store: _logs(store, args.name, follow=args.follow))


async def _logs(store: Store, run_name: str, *, follow: bool) -> int:
    await head_of(store, run_name)
    printer = Printer()
    while True:
        ended = (await runs.head(store, run_name)).state in ENDED_STATES  # asked first: what follows is then complete
        for epoch in await logs.epochs(store, run_name):
            if epoch >= printer.epoch:
                await _print_more(store, run_name, epoch, printer)
        if ended or not follow:
            break
        await asyncio.sleep(POLL_S)
    printer.close()
    if not printer.epoch:
        print(f"{run_name} has no log yet.", file=sys.stderr)
    return 0


async def _print_more(store: Store, run_name: str, epoch: int, printer: Printer) -> None:
    """Print what the store has of the attempt's log beyond what was printed."""
    for offset, key in await logs.ranges(store, run_name, epoch, printer.newest_range(epoch)):
        try:
            printer.feed(epoch, offset, await logs.read(store, key))
        except NotFound:  # retired between the list and the read
            continue
        printer.ranges[epoch] = offset


class Printer:
    """Prints log bytes as lines fit for a terminal. Byte offsets decide what is new: two sources may feed it."""

    MOST = 1 << 16
    """Characters of one line before it is printed without its end."""

    def __init__(self) -> None:
        self.epoch = 0
        self.at = 0
        """Bytes of this attempt's log that were printed."""
        self.ranges: dict[int, int] = {}
        """First byte of the newest range taken from the store, by attempt."""
        self._line = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def newest_range(self, epoch: int) -> int:
        return self.ranges.get(epoch, -1)

    def feed(self, epoch: int, offset: int, chunk: bytes) -> None:
        """Print what of ``chunk``, which begins at byte ``offset`` of the attempt's log, is new."""
        if epoch < self.epoch:
            return
        if epoch > self.epoch:
            self._begin(epoch)
        if offset > self.at:
            self._decode(f"\n[{offset - self.at} bytes of this log never reached the store]\n".encode())
            self.at = offset
        self._decode(chunk[self.at - offset :])
        self.at = max(self.at, offset + len(chunk))
        sys.stdout.flush()

    def close(self) -> None:
        """Print what stands on a line without an end."""
        if self._line:
            self._print(self._line)
        self._line = ""
        sys.stdout.flush()

    def _begin(self, epoch: int) -> None:
        self.close()
        self.epoch, self.at = epoch, 0
        self._decoder.reset()
        print(f"--- attempt {epoch} ---")

    def _decode(self, fresh: bytes) -> None:
        lines = (self._line + self._decoder.decode(fresh)).split("\n")
        self._line = lines.pop()
        for line in lines:
            self._print(line)
        if len(self._line) > self.MOST:
            self.close()

    def _print(self, line: str) -> None:
        # A progress bar rewrites its line: what stood there last is what a person would have seen.
        print(clean(line.rstrip("\r").rpartition("\r")[2]))
