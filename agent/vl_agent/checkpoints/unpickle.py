"""Reads the numbers and words in a pickle without running any of it: no class is looked up, no function is called.

What frameworks pickle beside their tensors (steps, world sizes, which bytes of which file are whose) is read here, by a
process that has no torch. Whatever a pickle wants to be made becomes a ``Stub``.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

MOST = 64 << 20
"""Bytes of a pickle that are read; more is ``Unreadable``."""


class Unreadable(ValueError):
    """Not a pickle that can be read here: torn, too large, or nothing of the kind."""


class Stub:
    """Stands in place of whatever object a pickle asks for; remembers what it was made of."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any, **_: Any) -> Stub:
        made = object.__new__(cls)
        made.args = args
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any, **_: Any) -> Stub:
        return Stub(*args)

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass

    def add(self, _: Any) -> None:
        pass

    def get(self, name: str) -> Any:
        """A field of the object, or None."""
        return self.state.get(name) if isinstance(self.state, dict) else None


class _Dict(dict[Any, Any]):
    """An OrderedDict or defaultdict: what it holds counts, not how."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None:
        pass


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _Dict if (module, name) in _DICTS else Stub

    def persistent_load(self, _: Any) -> Any:
        return Stub()


_DICTS = {("collections", "OrderedDict"), ("collections", "defaultdict"), ("builtins", "dict")}


def load(data: bytes) -> Any:
    """The pickle's content. Raises ``Unreadable``."""
    if len(data) > MOST:
        raise Unreadable(f"a pickle of more than {MOST >> 20} MiB")
    try:
        return _Reader(io.BytesIO(data)).load()
    except Exception as error:  # noqa: BLE001 - whatever the bytes make it do, it is no pickle of a framework's
        raise Unreadable(f"not a whole pickle: {error}") from None


def load_file(path: Path) -> Any:
    """A file that is one pickle. Raises ``Unreadable``, ``OSError``."""
    with path.open("rb") as file:
        return load(file.read(MOST + 1))


def load_torch(path: Path) -> Any:
    """What torch.save put into a file, without its tensors. Raises ``Unreadable``, ``OSError``."""
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = [member for member in archive.infolist() if member.filename.endswith("data.pkl")]
                if len(members) != 1 or members[0].file_size > MOST:
                    raise Unreadable("not what torch.save writes")
                body = archive.read(members[0])
        except Unreadable:
            raise
        except Exception as error:  # noqa: BLE001 - each way of packing has errors of its own
            raise Unreadable(f"not a whole archive: {error}") from None
    return load(body)


def number(value: Any) -> int | None:
    """A step or a count that may be believed to be one: twelve digits at most, as in the store's keys."""
    return value if type(value) is int and 0 <= value < 10**12 else None
