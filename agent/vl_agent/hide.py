"""Keeps the values of secrets out of what the agent writes down."""

from __future__ import annotations

from collections.abc import Collection

_LEAST = 4
"""A line of a secret that is shorter (the last one of a key in several lines) would hide half of every text."""


def without(text: str, secrets: Collection[str]) -> str:
    """``text`` with each secret's value, and each line of a value in several lines, replaced by ``***``."""
    parts = {line.strip() for value in secrets for line in value.splitlines() if len(line.strip()) >= _LEAST}
    for part in sorted({*secrets, *parts} - {""}, key=len, reverse=True):
        text = text.replace(part, "***")
    return text
