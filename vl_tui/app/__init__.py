"""The terminal app. ``main`` is what the command line calls; the screens are imported when it does."""

from __future__ import annotations

import asyncio
import locale
import os
import sys
from dataclasses import replace

from vl_tui.config import ConfigError, FleetConfig


def main(fleet: FleetConfig, *, theme: str = "vl-dark") -> int:
    """Run the app in this terminal until it is left. Raises ``ConfigError`` where it can't be drawn."""
    if asyncio.run(show(fleet, theme=theme)):
        print("vl-tui: left; runs and controller go on.", file=sys.stderr)
    return 0


async def show(fleet: FleetConfig, *, theme: str = "vl-dark") -> bool:
    """``main`` for one who has a loop already. Whether runs were live when it was left."""
    term = os.environ.get("TERM", "")
    if not sys.stdout.isatty() or not sys.stdin.isatty():
        raise ConfigError("the app needs a terminal: `vl-tui ls` and `vl-tui logs RUN` print without one.")
    if term in ("", "dumb"):
        raise ConfigError(f"TERM={term or '(not set)'} can't show the app: use `vl-tui ls` and `vl-tui logs RUN`.")
    ascii_only = term == "linux" or "UTF-8" not in locale.getpreferredencoding(False).upper().replace("UTF8", "UTF-8")
    sixteen = term in ("linux", "xterm", "vt100", "screen") and not os.environ.get("COLORTERM")
    if os.environ.get("SSH_CONNECTION"):
        os.environ.setdefault("TEXTUAL_FPS", "30")
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")

    from vl_tui.app import app
    from vl_tui.app import theme as themes

    look = themes.plain() if sixteen or os.environ.get("NO_COLOR") else themes.load(theme)
    return await app.show(fleet, replace(look, ascii=ascii_only))
