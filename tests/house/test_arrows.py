"""The one-way arrows between the rooms, as data with reasons: app -> controller -> (policy, providers, ssh, store) ->
domain -> vl_agent.protocol. An import anywhere in a file counts, also inside a function or under TYPE_CHECKING."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Room:
    """``may``: module prefixes of this project that the room imports, besides itself."""

    prefix: str
    may: tuple[str, ...]
    why: str


# The longest prefix that fits a module is its room.
ROOMS = [
    Room("vl_agent.protocol", (), "the seam: both ends read it, it reads nobody"),
    Room(
        "vl_agent.torch",
        ("vl_agent.archive", "vl_agent.control", "vl_agent.writer"),
        "enters the training process alone, with the standard library",
    ),
    Room("vl_agent.archive", (), "a file format; goes into the training process together with the helper"),
    Room("vl_agent.control", (), "goes into the training process together with the helper"),
    Room("vl_agent.writer", ("vl_agent.archive", "vl_agent.control"), "the helper's own process: no torch there"),
    Room("vl_agent", ("vl_agent",), "the box's side: nothing of vl_tui is there"),
    Room("vl_tui.domain", ("vl_agent.protocol",), "plain data and pure functions"),
    Room("vl_tui.policy", ("vl_tui.domain", "vl_agent.protocol"), "pure functions over offers and runs"),
    Room("vl_tui.config", ("vl_agent.protocol",), "files of a person, before anything is reached"),
    Room("vl_tui.providers.base", ("vl_tui.domain", "vl_agent.protocol"), "the interface alone"),
    Room(
        "vl_tui.providers",
        ("vl_tui.providers.base", "vl_tui.domain", "vl_tui.config", "vl_tui.ssh", "vl_agent.protocol"),
        "adapters; owned boxes are asked over SSH",
    ),
    Room(
        "vl_tui.ssh",
        ("vl_tui.domain", "vl_agent.protocol"),
        "one SSH plane for controller, app and commands; knows no provider",
    ),
    Room(
        "vl_tui.store",
        ("vl_tui.domain", "vl_tui.config", "vl_agent.store", "vl_agent.head", "vl_agent.protocol"),
        "the operator's view of what the agent's store layer holds",
    ),
    Room(
        "vl_tui.controller",
        (
            "vl_tui.policy", "vl_tui.providers", "vl_tui.ssh", "vl_tui.store", "vl_tui.domain", "vl_tui.config",
            "vl_agent.store", "vl_agent.head", "vl_agent.protocol",
        ),
        "does what decide() says; knows nothing of screens or demos",
    ),
    Room(
        "vl_tui.app",
        (
            "vl_tui.controller", "vl_tui.policy", "vl_tui.ssh", "vl_tui.store",
            "vl_tui.domain", "vl_tui.config", "vl_agent.store", "vl_agent.protocol",
        ),
        "reads and sends intents; calls no provider, moves no head",
    ),
    Room("vl_tui.demo", ("vl_tui", "vl_agent"), "a harness around everything; shows the app"),
    Room("vl_tui.failure", ("vl_tui.config.folders",), "knows the other rooms' errors by name only"),
    Room("vl_tui.cli", ("vl_tui.failure", "vl_tui.commands", "vl_agent.store"), "options only"),
    Room("vl_tui.commands", ("vl_tui", "vl_agent"), "thin; the only way to the app"),
    Room("vl_tui", (), "the package itself is empty: importing any room must cost that room only"),
]  # fmt: skip

APP_DOORS = ("vl_tui.app", "vl_tui.commands", "vl_tui.demo.driver")
"""Who may import the app: commands open it, and the demo shows it."""

PURE = ("vl_tui.domain", "vl_tui.policy", "vl_agent.protocol")
PURE_LIBRARY = {
    "__future__", "abc", "bisect", "collections", "dataclasses", "datetime", "enum", "functools", "hashlib", "heapq",
    "itertools", "json", "math", "operator", "re", "statistics", "string", "struct", "textwrap", "types", "typing",
    "unicodedata", "zlib",
}  # fmt: skip
"""What pure rooms use: nothing that opens, waits, reads a clock or throws dice."""

AGENT_LIBRARIES = {"blake3", "obstore", "pynvml", "zstandard"}
"""Sent to every box: each one more is a wheel for every Python and machine."""

TORCH_LIBRARIES: dict[str, set[str]] = {
    "vl_agent.torch": {"torch", "numpy"},
    "vl_agent.archive": set(),
    "vl_agent.control": set(),
    "vl_agent.writer": set(),
    "vl_tui.demo.workdir": {"torch", "numpy"},
    "vl_tui.demo.weights": {"torch", "numpy"},
}
"""Run in the training process, or as a process of their own: torch is at home there, and nobody else imports them."""


def modules() -> dict[str, Path]:
    found = {}
    for base in (ROOT, ROOT / "agent"):
        package = base / ("vl_agent" if base.name == "agent" else "vl_tui")
        for path in sorted(package.rglob("*.py")):
            name = ".".join(path.relative_to(base).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name: str, path: Path) -> Iterator[str]:
    """Every module that ``path`` imports, in full; ``from a import b`` as ``a.b`` where that is a module."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base


def inside(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def room_of(module: str) -> Room:
    return max((room for room in ROOMS if inside(module, room.prefix)), key=lambda room: len(room.prefix))


def ours(module: str) -> bool:
    return module.split(".")[0] in ("vl_tui", "vl_agent")


def guilty(modules: Iterable[str], wrong: Callable[[str, str], bool]) -> list[str]:
    """``a imports b`` for every import of ``modules`` that is wrong."""
    return [
        f"{name} imports {found}" for name in modules for found in imports(name, MODULES[name]) if wrong(name, found)
    ]


def library(module: str) -> str:
    return module.split(".")[0]


def test_a_room_imports_only_what_its_arrows_point_to() -> None:
    def wrong(name: str, found: str) -> bool:
        room = room_of(name)
        return ours(found) and room_of(found) is not room and not any(inside(found, prefix) for prefix in room.may)

    assert guilty(MODULES, wrong) == []


def test_only_commands_and_the_demos_driver_open_the_app() -> None:
    outside = [name for name in MODULES if not any(inside(name, door) for door in APP_DOORS)]
    assert guilty(outside, lambda _, found: inside(found, "vl_tui.app")) == []


def test_pure_rooms_use_no_library_that_does_io_or_reads_a_clock() -> None:
    pure = [name for name in MODULES if any(inside(name, prefix) for prefix in PURE)]
    assert guilty(pure, lambda _, found: not ours(found) and library(found) not in PURE_LIBRARY) == []


def test_the_agent_needs_few_libraries_and_the_helper_none_but_torch() -> None:
    def wrong(name: str, found: str) -> bool:
        special = [prefix for prefix in TORCH_LIBRARIES if inside(name, prefix)]
        allowed = TORCH_LIBRARIES[special[0]] if special else AGENT_LIBRARIES
        return not ours(found) and library(found) not in {*sys.stdlib_module_names, *allowed}

    assert guilty([name for name in MODULES if inside(name, "vl_agent")], wrong) == []


def test_torch_is_imported_only_by_programs_of_their_own_that_nobody_imports() -> None:
    programs = [prefix for prefix, libraries in TORCH_LIBRARIES.items() if libraries]

    def wrong(name: str, found: str) -> bool:
        brings_torch = library(found) == "torch" or any(inside(found, prefix) for prefix in programs)
        return brings_torch and not any(inside(name, prefix) for prefix in programs)

    assert guilty(MODULES, wrong) == []


def test_the_table_catches_an_arrow_that_points_back(tmp_path: Path) -> None:
    path = tmp_path / "guilty.py"
    path.write_text("def f():\n    from vl_tui.controller import decide\n    from ..app import screens\n")
    found = list(imports("vl_tui.domain.guilty", path))
    assert any(inside(module, "vl_tui.controller") for module in found)
    assert any(inside(module, "vl_tui.app") for module in found)
    assert not any(inside("vl_tui.controller", prefix) for prefix in room_of("vl_tui.domain.guilty").may)
