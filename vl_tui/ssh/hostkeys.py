"""Host keys, pinned by box: a box is its provider's id for it, never an address, which the next box may get.

One file a box, created once and never overwritten: two processes that meet a box at the same moment pin one key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import asyncssh

ALGORITHMS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")
"""Offered in this order, as ssh does: asyncssh by itself would ask for RSA first and pin that."""


class Pins:
    """The host key of each box, as first seen or as its provider told it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, box_id: str) -> Path:
        """Where the box's pin is: named by a hash, because a provider's id is not ours to trust."""
        return self.folder / f"{hashlib.sha256(box_id.encode()).hexdigest()[:24]}.pub"

    def get(self, box_id: str) -> list[asyncssh.SSHKey]:
        """The pinned keys; empty before first contact."""
        try:
            return parse_keys(self.path(box_id).read_text().splitlines())
        except FileNotFoundError:
            return []

    def pin(self, box_id: str, key: asyncssh.SSHKey) -> bool:
        """Pin ``key`` unless there is a pin. False: another key is pinned."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        line = key.export_public_key().decode().strip()
        temporary = self.folder / f".{os.getpid()}-{hashlib.sha256(os.urandom(8)).hexdigest()[:8]}"
        temporary.write_text(f"{line.split(' ')[0]} {line.split(' ')[1]} {box_id!r}\n")
        try:
            os.link(temporary, self.path(box_id))
        except FileExistsError:
            return key in self.get(box_id)
        finally:
            temporary.unlink()
        return True


def parse_keys(lines: Iterable[str]) -> list[asyncssh.SSHKey]:
    """OpenSSH public key lines as keys; a line that is none is passed over."""
    found = []
    for line in lines:
        try:
            found.append(asyncssh.import_public_key(line))
        except (asyncssh.KeyImportError, ValueError):
            continue
    return found


def algorithms(known: Sequence[asyncssh.SSHKey]) -> list[str]:
    """Host key algorithms to ask for: those of the known keys first, but all of them. With the known ones alone, a box
    whose key changed to another type would look like a broken network, and be dialled for ever."""
    kinds = {key.get_algorithm() for key in known}
    mine = [a for a in ALGORITHMS if a in kinds or (a.startswith("rsa-") and "ssh-rsa" in kinds)]
    return mine + [a for a in ALGORITHMS if a not in mine]
