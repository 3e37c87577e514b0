"""Sees saves in the checkpoint folder as they become whole, and holds them.

By looking, not by inotify: events of other hosts' writes on shared file systems never come, and a look at one folder
three times a second costs little. A layout says which files make a checkpoint and how far they may be believed; what is
complete is held by hard links first, so that the script's rotation can't take it while it is read, then read once, and
counts when it is whole and nothing of it changed meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vl_agent.checkpoints import files, layouts
from vl_agent.checkpoints.files import Stamp
from vl_agent.checkpoints.layouts.base import Found, Inside, Layout, Tree

QUIET_S = 2.0
"""What carries no mark of its own is believed finished after so long without a change."""
LONG_S = 60.0
"""So long where a framework may be between two files; after so long, too, what is torn is said to be."""
_NUMBERS = re.compile(r"(\d+)")
_STEP = re.compile(r"(step_?)\d+")


@dataclass(frozen=True)
class Part:
    """One file of a held checkpoint."""

    path: str
    """In the checkpoint folder, POSIX."""
    held: Path
    """Where its content is."""
    stamp: Stamp
    """Of ``held``."""
    digest: str = ""
    """BLAKE3, where it was read already."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is whole on this box."""

    step: int | None
    """None: neither its name nor its content nor a helper says."""
    name: str
    layout: Layout
    parts: tuple[Part, ...]
    seen: Mapping[str, Stamp]
    """Its files as they were in the folder: an equal one is the same save."""
    pin: Path
    """The folder that holds it, for ``let_go``."""
    took_s: float | None = None
    suspect: str = ""
    """Why it is not to be resumed from, or nothing."""

    @property
    def bytes(self) -> int:
        return sum(part.stamp.size for part in self.parts)

    def let_go(self) -> None:
        shutil.rmtree(self.pin, ignore_errors=True)


@dataclass
class _Name:
    """What is known of one checkpoint's name."""

    seen: Mapping[str, Stamp] = field(default_factory=dict)
    since: float = 0.0
    taken: Mapping[str, Stamp] | None = None
    torn: Mapping[str, Stamp] | None = None
    why: str = ""
    """Why it is torn; empty once it was said."""
    unproven: Mapping[str, Stamp] | None = None
    """Files of which some have nothing that proves them whole: only quiet can."""


@dataclass(frozen=True)
class _Held:
    pin: Path
    parts: tuple[Part, ...]

    def let_go(self) -> None:
        shutil.rmtree(self.pin, ignore_errors=True)


class Watch:
    """One checkpoint folder. ``look`` blocks (it reads new files once): call it in a thread; the rest is for the loop's
    thread and never waits for it."""

    def __init__(self, folder: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._monotonic = folder, monotonic
        self._hold = files.hidden_folder(folder) / "hold"
        shutil.rmtree(self._hold, ignore_errors=True)  # a killed agent's
        self._recognised = layouts.Recognised()
        self._names: dict[str, _Name] = {}
        self._told: dict[str, tuple[int, float | None]] = {}
        self._shapes: dict[str, frozenset[str]] = {}
        self._short: dict[str, tuple[str, frozenset[str]]] = {}
        self._steps: deque[tuple[str, int | None]] = deque(maxlen=256)
        self._inodes: dict[str, int] = {}
        self._rewritten: set[str] = set()
        self._damage: deque[tuple[str, str]] = deque()
        self._failed: set[str] = set()
        self._complaints: deque[str] = deque()
        self._pins = itertools.count(1)
        self._looking = threading.Lock()

    def ignore_present(self) -> None:
        """What is there now is no news: it was restored."""
        for layout, found in self._found() or ():
            self._names[found.name] = _Name(found.files, taken=found.files)
            self._learn(layout, found, found.step)

    def look(self, *, patient: bool = True, finished: bool = True) -> list[Saved]:
        """Saves that became whole since the last look, by step. ``patient`` False: the command has ended, nothing
        changes any more; ``finished``: and by its own word, so that its last save is not one that was cut off."""
        with self._looking:
            now = self._monotonic()
            found = self._found()
            if found is None:
                return []
            saves = []
            for layout, one in found:
                saved = self._consider(layout, one, now, ended=not patient, finished=not patient and finished)
                if saved is not None:
                    saves.append(saved)
            self._forget({one.name for _, one in found})
        return sorted(saves, key=lambda saved: saved.step or 0)

    def told(self, name: str, step: int, took_s: float | None) -> Saved | None:
        """The helper says that it saved: no need to look twice. None: it is gone, was seen already, is no file of this
        folder, or a folder in it, which the next look reads."""
        path = self.folder / name
        try:
            if path.parent != self.folder or path.name != name or path.is_symlink():
                return None
            if path.is_dir():
                self._told[name] = (step, took_s)
                return None
            if not path.is_file():
                return None
            found = Found(name, {name: Stamp.of(path)}, step)
            known = self._names.setdefault(name, _Name())
            if known.taken == found.files:
                return None
            held = self._held(found)
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return None
        if held is None:
            return None
        known.taken = found.files
        self._inodes[name] = found.files[name].inode
        return Saved(step, name, layouts.HELPER, held.parts, found.files, held.pin, took_s)

    def damage(self) -> list[tuple[str, str]]:
        """(name, why) of what was found torn and has not become whole for long, or never will; each is said once."""
        return [self._damage.popleft() for _ in range(len(self._damage))]

    def complaints(self) -> list[str]:
        """What could not be read since the last call, for a person; each thing is said once."""
        return [self._complaints.popleft() for _ in range(len(self._complaints))]

    # ------------------------------------------------------------------------------------------------------- inside

    def _found(self) -> list[tuple[Layout, Found]] | None:
        """What is in the folder; None: it can't be read just now, on a shared file system."""
        try:
            tree = Tree(self.folder)
        except OSError as error:
            self._complain(self.folder.name, error)
            return None
        found = self._recognised.find(tree)
        for name, why in tree.unread.items():
            self._complain(name, why)
        return found

    def _complain(self, name: str, error: OSError) -> None:
        words = f"{name} can't be read: {error.strerror or error}"
        if words not in self._failed:
            self._failed.add(words)
            self._complaints.append(words)

    def _consider(self, layout: Layout, found: Found, now: float, *, ended: bool, finished: bool) -> Saved | None:
        known = self._names.setdefault(found.name, _Name(since=now))
        taken = known.taken
        if taken is not None and found.files.items() <= taken.items():
            return None  # known, or being deleted
        changed = known.seen != found.files
        if changed:
            known.seen, known.since = found.files, now
            known.why = found.lacks
        quiet = now - known.since
        if found.lacks or known.torn == found.files:
            if known.why and (ended or quiet >= LONG_S):
                self._damage.append((found.name, known.why))
                known.why = ""
            return None
        early = self._early(layout, found, known, changed=changed, ended=ended)
        if not (early or self._late(layout, found, quiet, finished=finished)):
            return None
        held = self._held(found)
        if held is None:
            return None
        try:
            return self._read(layout, found, known, held, proof=not finished and quiet < QUIET_S)
        except FileNotFoundError:  # the script deletes its older ones, and there are no links to hold them by
            return None
        except OSError as error:  # one that can't be read hides no other
            self._complain(found.name, error)
            return None

    def _early(self, layout: Layout, found: Found, known: _Name, *, changed: bool, ended: bool) -> bool:
        """Whether its own marks are enough, without quiet."""
        shape = self._shapes.get(layout.name)
        if known.unproven == found.files or (shape and not shape <= _shape(found)):
            return False
        if found.trust == "marks":
            return True
        return (found.trust == "still" or (found.trust == "quiet" and bool(shape))) and (ended or not changed)

    def _late(self, layout: Layout, found: Found, quiet: float, *, finished: bool) -> bool:
        """Whether nobody writes any more, as far as anybody can tell. One that is less full than the one before is
        believed when a second is like it: then they are so by design."""
        if finished or quiet < (LONG_S if found.trust == "long" else QUIET_S):
            return finished
        expected, shape = self._shapes.get(layout.name), _shape(found)
        if expected is None or expected <= shape:
            return True
        name, other = self._short.get(layout.name, (found.name, shape))
        if name == found.name or other != shape:
            self._short[layout.name] = (found.name, shape)
            return False
        return True

    def _read(self, layout: Layout, found: Found, known: _Name, held: _Held, *, proof: bool) -> Saved | None:
        """Read what is held. ``proof``: every file must prove itself, or the layout's marks vouch for it."""
        with contextlib.ExitStack() as unless_saved:
            unless_saved.callback(held.let_go)
            inside, parts, unproven = _examined(layout, found, held.parts)
            if any(Stamp.of(part.held) != part.stamp for part in held.parts):
                return None  # written meanwhile: the next look sees what it is then
            if inside.lacks:
                known.torn, known.why = found.files, inside.lacks if _is_there(self.folder, found) else ""
                return None
            if proof and unproven and not layout.vouches:
                known.unproven = found.files
                return None
            step, took_s = self._told.pop(found.name, (found.step if inside.step is None else inside.step, None))
            known.taken = found.files
            self._inodes.update({path: stamp.inode for path, stamp in found.files.items()})
            if found.copy and step is not None and (layout.name, step) in self._steps:
                return None
            self._learn(layout, found, step)
            unless_saved.pop_all()
            return Saved(step, found.name, layout, parts, found.files, held.pin, took_s)

    def _held(self, found: Found) -> _Held | None:
        """Its files as they were seen, held; None: they are others by now."""
        pin = self._hold / str(next(self._pins))
        parts = []
        try:
            for path, stamp in found.files.items():
                source = self.folder / path
                if self._inodes.get(path) == stamp.inode:
                    self._rewritten.add(path)  # in place: a link would show what is written next
                held = files.hold(source, pin / path, copy=path in self._rewritten)
                if Stamp.of(source) != stamp:
                    raise FileNotFoundError(path)
                parts.append(Part(path, held, Stamp.of(held)))
        except OSError:
            shutil.rmtree(pin, ignore_errors=True)
            return None
        return _Held(pin, tuple(parts))

    def _learn(self, layout: Layout, found: Found, step: int | None) -> None:
        """The next one must be as full: kinds of files are demanded of a folder, and of a group of several files."""
        shape = _shape(found)
        self._short.pop(layout.name, None)
        if len(shape) > 1 or found.name not in found.files:
            self._shapes[layout.name] = shape
        else:
            self._shapes.pop(layout.name, None)
        self._steps.append((layout.name, step))

    def _forget(self, present: set[str]) -> None:
        """Of what is gone nothing is remembered."""
        for name in list(self._names):  # a copy: the helper may tell of another meanwhile
            if name not in present and not (self.folder / name).exists():
                for path in self._names.pop(name).seen:
                    self._inodes.pop(path, None)
                    self._rewritten.discard(path)
                self._told.pop(name, None)


def _examined(layout: Layout, found: Found, parts: tuple[Part, ...]) -> tuple[Inside, tuple[Part, ...], bool]:
    """What its content says; the parts with their hashes; whether some carry nothing that proves them. Raises
    ``OSError``."""
    why = (
        f"it has more than {files.MOST_FILES} files" if len(parts) > files.MOST_FILES else files.misplaced(found.files)
    )
    inside = Inside(why) if why else layout.inside(found, {part.path: part.held for part in parts})
    if inside.lacks:
        return inside, parts, False
    read, unproven = [], False
    for part in parts:
        examined = files.examine(part.held, inside.spans.get(part.path, ()))
        if examined.whole is False:
            return Inside(f"{part.path} is torn"), parts, False
        unproven = unproven or examined.whole is None
        read.append(replace(part, digest=examined.digest))
    return inside, tuple(read), unproven


def _is_there(folder: Path, found: Found) -> bool:
    """Whether the files still are what was seen: one that is being deleted is no damage."""
    try:
        return all(Stamp.of(folder / path) == stamp for path, stamp in found.files.items())
    except OSError:
        return False


def _shape(found: Found) -> frozenset[str]:
    """The kinds of its files: their names without its step."""
    if found.name in found.files:
        step = str(found.step)
        return frozenset(
            "".join("#" if part.lstrip("0") == step.lstrip("0") else part for part in _NUMBERS.split(path))
            for path in found.files
        )
    return frozenset(_STEP.sub(r"\1#", path.removeprefix(f"{found.name}/")) for path in found.files)
