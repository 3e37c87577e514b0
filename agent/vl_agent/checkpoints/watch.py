"""Sees saves in the checkpoint folder as they become whole.

By looking, not by inotify: events of other hosts' writes on shared file systems never come, and a look at one folder
three times a second costs nothing. A file whose own checksums prove it whole counts at once: a script that saves often
may delete it soon. One that has only lengths to go by counts when it has not changed between two looks, one that has
nothing after it was quiet for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vl_agent.checkpoints import files
from vl_agent.checkpoints.files import Stamp

QUIET_S = 2.0
"""A file that carries no checksum of its own is believed whole after so long without a change."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is whole on this box."""

    step: int | None
    """None: neither its name nor a helper says."""
    name: str
    path: Path
    stamp: Stamp
    took_s: float | None = None


class Watch:
    """One checkpoint folder. ``look`` blocks (it reads new files once): call it in a thread."""

    def __init__(self, folder: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._monotonic = folder, monotonic
        self._seen: dict[str, tuple[Stamp, float]] = {}
        self._told: dict[str, Stamp] = {}
        self._torn: dict[str, Stamp] = {}
        self._usual = False
        self._failed: set[str] = set()
        self._complaints: list[str] = []

    def complaints(self) -> list[str]:
        """What could not be read since the last call, for a person; each thing is said once."""
        told, self._complaints = self._complaints, []
        return told

    def ignore_present(self) -> None:
        """What is there now is no news: it was restored."""
        for path in self._candidates():
            self._told[path.name] = Stamp.of(path)

    def look(self, *, patient: bool = True) -> list[Saved]:
        """Saves that became whole since the last look, by step. ``patient`` False: the command has ended, nothing
        changes any more."""
        found = []
        now = self._monotonic()
        for path in self._candidates():
            try:
                stamp = Stamp.of(path)
                if self._told.get(path.name) == stamp:
                    continue
                before, since = self._seen.get(path.name, (None, now))
                if before != stamp:
                    self._seen[path.name] = (stamp, now)
                    if patient and not files.has_checksums(path):
                        continue
                if self._torn.get(path.name) == stamp:  # read once, found torn, not written since
                    continue
                verdict = files.whole(path)
                if verdict is False:
                    self._torn[path.name] = stamp
                settled = verdict is True or (verdict is None and (not patient or now - since >= QUIET_S))
                if settled and Stamp.of(path) == stamp:
                    found.append(self._take(path, stamp, None))
            except FileNotFoundError:  # the script deletes its older ones
                continue
            except OSError as error:  # one that can't be read hides no other
                self._complain(path, error)
        return sorted(found, key=lambda saved: (saved.step or 0, saved.stamp.mtime_ns))

    def told(self, name: str, step: int, took_s: float | None) -> Saved | None:
        """The helper says that it saved: no need to look twice. None: it is gone, was seen already, or is no file of
        this folder."""
        path = self.folder / name
        try:
            if path.parent != self.folder or path.is_symlink() or not path.is_file():
                return None
            stamp = Stamp.of(path)
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return None
        if self._told.get(name) == stamp:
            return None
        return Saved(step, name, path, self._take(path, stamp, took_s).stamp, took_s)

    def _take(self, path: Path, stamp: Stamp, took_s: float | None) -> Saved:
        self._told[path.name] = stamp
        return Saved(files.step_of(path.name), path.name, path, stamp, took_s)

    def _complain(self, path: Path, error: OSError) -> None:
        words = f"{path.name} can't be read: {error.strerror or error}"
        if words not in self._failed:
            self._failed.add(words)
            self._complaints.append(words)

    def _candidates(self) -> list[Path]:
        """Plain files that may be checkpoints: those with a checkpoint's suffix and a number where there are any, else
        any with a number, else those with the suffix alone (``last.pt``: beside numbered ones it is a copy)."""
        try:
            names = [path for path in self.folder.iterdir() if files.is_candidate(path.name)]
            plain = [path for path in names if path.is_file() and not path.is_symlink()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:  # a shared file system's moment: looked at again
            self._complain(self.folder, error)
            return []
        usual = [path for path in plain if path.suffix in files.SUFFIXES]
        self._usual = self._usual or bool(usual)
        numbered = [path for path in (usual if self._usual else plain) if files.step_of(path.name) is not None]
        return numbered or usual
