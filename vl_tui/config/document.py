"""A YAML file as plain values that remember their lines.

Reads the safe core of YAML only: maps with text keys, lists and scalars. Tags, keys given twice, deep nesting and
aliases that expand without bound are refused before anything is built from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_EVENTS = 50_000
"""Parser events in one file: a bound on the time that reading takes."""
MAX_VALUES = 20_000
"""Values after aliases are expanded: nine lines of a "YAML bomb" would be a billion."""

Where = tuple[str | int, ...]
"""Keys and list positions from the top of the file to a value."""


class ConfigError(Exception):
    """A file that a person must change. ``str()`` is one paragraph: file, line, key, what is wrong, what to do."""


@dataclass(frozen=True)
class Document:
    """One file: its content, and on which line each value (or its key) stands."""

    path: Path
    content: dict[str, Any]
    lines: dict[Where, int]

    def error(self, where: Where, words: str) -> ConfigError:
        """A complaint about the value at ``where``, or about the nearest thing above it that the file has."""
        known = where
        while known and known not in self.lines:
            known = known[:-1]
        return complain(self.path, words, line=self.lines.get(known), key=dotted(where))


def dotted(where: Where) -> str:
    """``("providers", 0, "hosts")`` as ``providers[0].hosts``."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def complain(path: Path, words: str, *, line: int | None = None, key: str = "") -> ConfigError:
    place = [str(path)] + ([f"line {line}"] if line else []) + ([printable(key)] if key else [])
    return ConfigError(f"{', '.join(place)}: {words}")


def printable(text: str, limit: int = 60) -> str:
    """A value from the file as it may stand in a terminal: control characters escaped, long text cut."""
    shown = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text[:limit])
    return shown + ("..." if len(text) > limit else "")


def read_document(path: Path) -> Document:
    """Read ``path``. Raises ``ConfigError`` when it can't be read or isn't a plain YAML map."""
    text = _read_text(path)
    try:
        _check_events(path, text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = f"not valid YAML: {error.problem or error.context or 'unreadable'}."
        raise complain(path, words, line=mark.line + 1 if mark else None) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        words = f"holds the control character \\x{ord(text[error.position]):02x}: remove it."
        raise complain(path, words, line=line) from None
    except (ValueError, OverflowError):  # an escape such as "\\UFFFFFFFF"
        raise complain(path, "holds an escape (\\U...) that stands for no character.") from None
    if not isinstance(node, yaml.MappingNode):
        raise complain(path, "expected a map of keys (`name: value`, one a line), found something else.", line=1)
    reader = _Reader(path)
    content = reader.value(node, ())
    return Document(path, content, reader.lines)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise complain(path, "no such file.") from None
    except OSError as error:
        raise complain(path, f"can't be read: {error.strerror}.") from None
    if len(raw) > MAX_BYTES:
        raise complain(path, f"larger than {MAX_BYTES >> 20} MiB, which no file of this kind needs to be.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise complain(path, "not UTF-8 text: save it as UTF-8.", line=line) from None


def _check_events(path: Path, text: str) -> None:
    """Refuse what must not reach the composer, which recurses and follows aliases."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = _line(event)
        if count > MAX_EVENTS:
            raise complain(path, f"more than {MAX_EVENTS} values, which no file of this kind needs.", line=line)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise complain(path, f"nested deeper than {MAX_DEPTH} levels.", line=line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        tag = getattr(event, "tag", None)
        if tag is not None:
            written = printable(tag.replace("tag:yaml.org,2002:", "!!"))
            raise complain(path, f"YAML tags aren't used in this file: remove {written!r}.", line=line)


def _line(marked: yaml.Event | yaml.Node) -> int:
    return marked.start_mark.line + 1 if marked.start_mark else 1


class _Reader:
    """Turns nodes into values, noting lines. Counts values, so that aliases can't multiply for ever."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Where, int] = {}
        self.count = 0
        self.scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, where: Where) -> Any:
        self.count += 1
        line = _line(node)
        if self.count > MAX_VALUES or len(where) > MAX_DEPTH:
            words = "its aliases (`*name`) expand without end: write the values out."
            raise complain(self.path, words, line=line, key=dotted(where[:3]))
        self.lines.setdefault(where, line)
        if isinstance(node, yaml.MappingNode):
            return self._map(node, where)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*where, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, where)

    def _map(self, node: yaml.MappingNode, where: Where) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise complain(self.path, "a key must be text, not a list or a map.", line=line, key=dotted(where))
            key: str = key_node.value
            below = (*where, key)
            if key in values:
                words = f"given twice (first on line {self.lines[below]}): keep one."
                raise complain(self.path, words, line=line, key=dotted(below))
            self.lines[below] = line
            values[key] = self.value(value_node, below)
        return values

    def _scalar(self, node: yaml.Node, where: Where) -> Any:
        # YAML 1.1 reads 12:30 as a number to base 60 and a date as a datetime that loses its text: both stay text here.
        text: str = node.value
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            words = "holds half of a surrogate pair, which is no character."
            raise complain(self.path, words, line=_line(node), key=dotted(where))
        if node.tag.endswith(":timestamp") or (node.tag.endswith((":int", ":float")) and ":" in text):
            return text
        if node.tag.endswith((":merge", ":value")):
            return text
        try:
            return self.scalars.construct_object(node)
        except (ValueError, yaml.YAMLError):
            words = f"can't be read as a value: {printable(text)!r}. Put it in quotes if it is text."
            raise complain(self.path, words, line=_line(node), key=dotted(where)) from None
