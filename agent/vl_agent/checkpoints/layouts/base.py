"""What every layout says of itself: which checkpoints are in a folder, what makes one whole, what points at it.

A layout looks in two steps. ``find`` sees names, sizes and times only, and is asked three times a second. ``inside``
reads the small files of a checkpoint that is held already, so that nobody deletes it meanwhile. What any folder may
hold (shards, extents, ranks) is checked for every layout by ``contents``.
"""

from __future__ import annotations

import os
import re
import stat as modes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vl_agent.checkpoints import files
from vl_agent.checkpoints.files import Span, Stamp

Trust = Literal["marks", "still", "quiet", "long"]
"""When a complete set of files is believed to be finished. marks: at once, its own marks prove it. still: unchanged
between two looks; its own marks prove it once nobody writes. quiet: unchanged for ``watch.QUIET_S``, nothing proves it.
long: unchanged for ``watch.LONG_S``; it looks like the beginning of something else."""


@dataclass(frozen=True)
class Found:
    """A checkpoint as it is in the folder at one look, finished or not."""

    name: str
    """The file or folder in the checkpoint folder that it is."""
    files: Mapping[str, Stamp]
    """By path in the checkpoint folder; what comes last in a save is last."""
    step: int | None = None
    """By its name, where that says it."""
    trust: Trust = "quiet"
    lacks: str = ""
    """What is not there yet, for a person; empty: all that names can tell is there."""
    copy: bool = False
    """It may be a second copy of a checkpoint that is there under another name (``last.ckpt``)."""


@dataclass(frozen=True)
class Inside:
    """What the content of a held checkpoint says."""

    lacks: str = ""
    """Why it is not whole, for a person, or nothing."""
    step: int | None = None
    spans: Mapping[str, Sequence[Span]] = field(default_factory=dict)
    """Checksums of its files that are written elsewhere, by path."""


@dataclass(frozen=True)
class Pointer:
    """A file (``text``) or a symbolic link (``link``) that tells the training which checkpoint is the newest."""

    path: str
    text: str | None = None
    link: str | None = None


Held = Mapping[str, Path]
"""Where the content of a checkpoint's files is, by path in the checkpoint folder."""


def nothing_inside(_found: Found, _held: Held) -> Inside:
    return Inside()


def no_pointers(_paths: Sequence[str], _step: int) -> tuple[Pointer, ...]:
    return ()


@dataclass(frozen=True)
class Layout:
    """One framework's way of writing checkpoints."""

    name: str
    resume: str
    """How the training command resumes from it, in words for the screen."""
    find: Callable[[Tree], Sequence[Found]]
    """Its checkpoints in the folder, torn ones too, those that others may be copies of first."""
    inside: Callable[[Found, Held], Inside] = nothing_inside
    """Reads a held checkpoint: its step, and what only content can tell to be missing. Whatever the bytes are it
    returns; raises ``OSError`` when a file can't be read."""
    pointers: Callable[[Sequence[str], int], tuple[Pointer, ...]] = no_pointers
    """What must point at a checkpoint of these files and step before the command starts; written last."""
    vouches: bool = True
    """Its marks vouch also for files that carry no checksum or length of their own."""


class Tree:
    """The checkpoint folder at one look. Hidden entries are not there, but for torch's ``.metadata``; folders are
    listed when a layout asks for them. Raises ``OSError`` when it can't be read; one that is not there is empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Stamp] = {}
        self.folders: list[str] = []
        self.links: dict[str, str] = {}
        self.under_way = False
        """A temporary file lies directly in the folder: somebody writes, or was killed while writing."""
        self.unread: dict[str, OSError] = {}
        """Folders in it that can't be read; they are taken for empty."""
        self._below: dict[str, dict[str, Stamp]] = {}
        for entry in _entries(folder):
            self.under_way = self.under_way or bool(_UNDER_WAY.search(entry.name))
            if entry.name.startswith(".") and entry.name != ".metadata":
                continue
            try:
                if entry.is_symlink():
                    self.links[entry.name] = os.readlink(entry.path)
                elif entry.is_dir():
                    self.folders.append(entry.name)
                elif entry.is_file():
                    self.files[entry.name] = Stamp.from_stat(entry.stat())
            except OSError:  # deleted since
                continue
        self.folders.sort()

    def below(self, name: str) -> dict[str, Stamp]:
        """Files of one of the folders, by path in the checkpoint folder, sorted; at most one more than a checkpoint
        may have. What links lead to counts as the file."""
        if name not in self._below:
            found: dict[str, Stamp] = {}
            try:
                _list(self.folder / name, f"{name}/", found)
            except OSError as error:  # in part it might look like a whole one
                self.unread[name], found = error, {}
            self._below[name] = dict(sorted(found.items()))
        return self._below[name]

    def text(self, name: str) -> str:
        """The content of a small file, stripped; empty where there is none."""
        try:
            with (self.folder / name).open("rb") as file:
                return file.read(4096).decode("utf-8", "replace").strip()
        except OSError:
            return ""

    def without(self, names: set[str]) -> Tree:
        """The same look without these entries: they belong to another layout."""
        left = object.__new__(Tree)
        left.folder, left.links, left.under_way = self.folder, self.links, self.under_way
        left.unread, left._below = self.unread, self._below
        left.files = {name: stamp for name, stamp in self.files.items() if name not in names}
        left.folders = [name for name in self.folders if name not in names]
        return left


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):  # not there yet, or deleted since
        return []


def _list(folder: Path, prefix: str, found: dict[str, Stamp]) -> None:
    for entry in _entries(folder):
        if len(found) > files.MOST_FILES:
            return
        if entry.is_dir(follow_symlinks=False):
            _list(folder / entry.name, f"{prefix}{entry.name}/", found)
        elif not entry.name.startswith(".nfs"):
            try:
                stat = entry.stat()
            except OSError:  # deleted since, or a link to nowhere
                continue
            if modes.S_ISREG(stat.st_mode):
                found[prefix + entry.name] = Stamp.from_stat(stat)


def top(path: str) -> str:
    """The entry of the checkpoint folder that a path is in."""
    return path.partition("/")[0]


_UNDER_WAY = re.compile(r"(^|/)(\.tmp[^/]*|[^/]*\.(tmp|part|partial|incomplete))($|/)|-tmp(/|$)|orbax-checkpoint-tmp")


def lacking(found: Mapping[str, Stamp], *wanted: str, prefix: str = "") -> str:
    """The words for what is missing: a temporary file says that a save is under way; each of ``wanted`` is a pattern
    that the name of one of the files, after ``prefix``, must match whole."""
    for path in found:
        if _UNDER_WAY.search(path):
            return f"{path} is a save under way"
    names = [path[len(prefix) :] for path in found if path.startswith(prefix)]
    for pattern in wanted:
        if not any(re.fullmatch(pattern, name) for name in names):
            return f"no {prefix}{pattern.split('|')[0].replace(chr(92), '')}"
    return ""


def by_step(tree: Tree, names: Sequence[str]) -> list[tuple[int | None, dict[str, Stamp]]]:
    """Files of the checkpoint folder that are one checkpoint: those of one step (``model_40.pt``, ``optim_40.pt``), or,
    where no name has a number, all of them."""
    groups: dict[int | None, dict[str, Stamp]] = {}
    for name in sorted(names):
        groups.setdefault(files.step_of(name), {})[name] = tree.files[name]
    numbered = {step: group for step, group in groups.items() if step is not None}
    return list((numbered or groups).items())


def last(found: Mapping[str, Stamp], *names: str) -> dict[str, Stamp]:
    """The files in the order in which they are put back: those of ``names`` at the end."""
    order = {name: number for number, name in enumerate(names, 1)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0].rpartition("/")[2], 0)))
