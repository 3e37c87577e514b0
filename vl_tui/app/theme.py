"""Themes as data: a YAML file is checked, then turned into Textual's own theme and the styles of the line widgets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rich.color import Color as RichColor
from rich.color import ColorParseError
from rich.style import Style
from textual.theme import BUILTIN_THEMES, Theme

from vl_tui.config import ConfigError, folders
from vl_tui.config.document import Document, read_document

DEFAULT = "vl-dark"
ROLES = (
    "bar", "select", "line", "faint", "dim", "text", "bright", "key", "train", "durable", "notice", "lost", "prov",
    "restore", "repeat", "migrate", "escalate",
)  # fmt: skip
_COLOURS = (
    "primary", "secondary", "warning", "error", "success", "accent", "foreground", "background", "surface", "panel",
)  # fmt: skip
_SIXTEEN = {
    "train": "cyan", "durable": "green", "notice": "yellow", "lost": "red", "restore": "blue", "migrate": "blue",
    "repeat": "magenta", "escalate": "bright_yellow", "dim": "bright_black", "faint": "bright_black",
    "line": "bright_black", "prov": "bright_black", "key": "bright_blue",
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """A theme, ready to draw with."""

    theme: Theme
    styles: Mapping[str, Style]
    """By role; ``bar`` and ``select`` are backgrounds."""
    ascii: bool = False
    """Draw with ASCII alone: for fonts and locales that have no more."""

    def style(self, role: str, *, bold: bool = False, on: str = "") -> Style:
        found = self.styles.get(role, Style())
        if on:
            found = found + self.styles[on]
        return found + Style(bold=True) if bold else found


def load(name: str = DEFAULT) -> Look:
    """The theme of that name: the person's own before the shipped ones. Raises ``ConfigError``."""
    return _look(read_document(_find(name)))


def plain() -> Look:
    """For terminals with sixteen colours, and for NO_COLOR: the terminal's own colours, or attributes alone."""
    no_colour = bool(os.environ.get("NO_COLOR"))
    styles = {role: Style() if no_colour else Style(color=_SIXTEEN.get(role)) for role in ROLES}
    styles["bar"], styles["select"] = Style(), Style(reverse=True)
    return Look(BUILTIN_THEMES["ansi-dark"], styles)


def _find(name: str) -> Path:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"theme {name!r}: a theme's name is letters, digits, '-' and '_'.")
    package = Path(str(resources.files("vl_tui")))
    for folder in (folders.config_home() / "themes", package / "themes", package.parent / "themes"):
        path = folder / f"{name}.yaml"
        if path.is_file():
            return path
    own = folders.config_home() / "themes"
    raise ConfigError(f"theme {name!r}: there is no {name}.yaml in {own}, nor is one shipped.")


def _look(document: Document) -> Look:
    body = document.content
    for key in body:
        if key not in ("name", "dark", "roles", *_COLOURS):
            raise document.error((key,), f"{key!r} is not a part of a theme.")
    colours: dict[str, Any] = {key: _colour(document, (key,), body[key]) for key in _COLOURS if key in body}
    if "primary" not in colours or not isinstance(body.get("name"), str):
        raise document.error((), "needs at least a name and a primary colour.")
    roles = _roles(document, body.get("roles", {}))
    theme = Theme(
        name=body["name"], dark=body.get("dark") is not False,
        variables={f"vl-{role}": colour for role, colour in roles.items()}, **colours,
    )  # fmt: skip
    styles = {r: Style(bgcolor=c) if r in ("bar", "select") else Style(color=c) for r, c in roles.items()}
    return Look(theme, styles)


def _roles(document: Document, given: Any) -> dict[str, str]:
    if not isinstance(given, dict):
        raise document.error(("roles",), "must map a role to a colour.")
    for role in given:
        if role not in ROLES:
            raise document.error(("roles", role), f"{role!r} is not a role: there are {', '.join(ROLES)}.")
    missing = [role for role in ROLES if role not in given]
    if missing:
        raise document.error(("roles",), f"lacks {', '.join(missing)}.")
    found = {}
    for role in ROLES:
        value = given[role]
        named = given.get(value) if isinstance(value, str) and value in ROLES else value
        found[role] = _colour(document, ("roles", role), named)
    return found


def _colour(document: Document, where: tuple[str, ...], value: Any) -> str:
    if isinstance(value, str):
        try:
            RichColor.parse(value)
            return value
        except ColorParseError:
            pass
    raise document.error(where, f'{str(value)[:40]!r} is not a colour: write "#rrggbb" or a name.')
