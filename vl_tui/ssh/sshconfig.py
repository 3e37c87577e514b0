"""How to reach a host: what ``ssh`` itself would do, as ``ssh -G`` tells it.

asyncssh's own reader of ``~/.ssh/config`` raises on files that ssh accepts (``Port 22 # note``, ``30s``, a missing
IdentityFile) and expands tokens differently, so ssh is asked and asyncssh gets explicit values. ssh takes the home
folder from the user database, whatever HOME says; ``VL_SSH_CONFIG`` names another file, as ``ssh -F`` does.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from vl_tui.domain.box import SshAddress
from vl_tui.ssh.hostkeys import parse_keys

_ASK_S = 5.0
_MOST_JUMPS = 8
_TOKEN = re.compile(r"%(.)")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class ConfigurationError(Exception):
    """ssh's configuration has no usable answer for a host. ``str()`` says which and why."""


@dataclass(frozen=True)
class Way:
    """Everything needed to dial one host, resolved."""

    name: str
    """For messages: the alias, or the address."""
    host: str
    port: int
    user: str
    keys: tuple[Path, ...] = ()
    agent: str | None = None
    own: bool = False
    """A machine of the person's own: its keys are in their known_hosts, we pin nothing."""
    known: tuple[asyncssh.SSHKey, ...] = ()
    jumps: tuple[Way, ...] = ()
    proxy_command: str = ""


async def resolve(address: SshAddress) -> Way:
    """The way to ``address``. Raises ``ConfigurationError``."""
    if address.alias:
        return await asyncio.to_thread(_own, address.alias, ())
    name = f"{address.host}:{address.port}"
    keys = tuple(Path(path) for path in address.key_paths)
    return Way(name, address.host, address.port, address.user or "root", keys)


def _own(alias: str, above: tuple[str, ...]) -> Way:
    if alias.startswith("-") or any(ord(char) < 33 for char in alias):
        raise ConfigurationError(f"{alias!r} is not a host.")
    if alias in above or len(above) >= _MOST_JUMPS:
        raise ConfigurationError(f"{above[0]}: its ProxyJump hops go round in a circle: {' > '.join((*above, alias))}.")
    answers = _ask(alias)
    host, port = answers["hostname"][0], int(answers["port"][0])
    user = answers.get("user", [""])[0]
    tokens = _tokens(alias, host, port, user, answers)
    jump = answers.get("proxyjump", ["none"])[0]
    jumps: tuple[Way, ...] = ()
    if jump != "none":
        for hop in jump.split(","):
            way = _own(hop.strip().removeprefix("ssh://"), (*above, alias))
            jumps += (*way.jumps, way)
    command = answers.get("proxycommand", ["none"])[0]
    return Way(
        name=alias,
        host=host,
        port=port,
        user=user,
        keys=_identities(answers, tokens),
        agent=_agent(answers, tokens),
        own=True,
        known=_known(answers, tokens, host, port),
        jumps=jumps,
        proxy_command="" if jumps or command == "none" else _expand(command, tokens, quote=True),
    )


def _ask(alias: str) -> dict[str, list[str]]:
    """``ssh -G``'s answer: lower-case key -> values in order."""
    if shutil.which("ssh") is None:
        raise ConfigurationError(f"{alias}: there is no `ssh` here to read your configuration: install OpenSSH.")
    target, _, port = alias.rpartition(":")
    words = ["-p", port, "--", target] if target and port.isdigit() and "]" not in port else ["--", alias]
    file = os.environ.get("VL_SSH_CONFIG")
    if file:
        words = ["-F", file, *words]
    try:
        done = subprocess.run(
            ["ssh", "-G", *words], capture_output=True, text=True, timeout=_ASK_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"{alias}: `ssh -G` did not answer within {_ASK_S:.0f} s: a Match exec?") from None
    if done.returncode != 0:
        raise ConfigurationError(f"{alias}: {' '.join(done.stderr.split())[:300]}")
    answers: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        answers.setdefault(key.lower(), []).append(value)
    return answers


def _tokens(alias: str, host: str, port: int, user: str, answers: Mapping[str, list[str]]) -> dict[str, str]:
    me = pwd.getpwuid(os.getuid())
    return {
        "%": "%", "h": host, "n": alias, "p": str(port), "r": user, "u": me.pw_name, "i": str(me.pw_uid),
        "d": str(Path.home()), "l": socket.gethostname(), "L": socket.gethostname().partition(".")[0],
        "k": answers.get("hostkeyalias", [alias])[0],
    }  # fmt: skip


def _expand(text: str, tokens: Mapping[str, str], *, quote: bool = False) -> str:
    """``%h`` and the like; ``${NAME}`` where it is no shell command (a shell expands its own)."""
    text = _TOKEN.sub(lambda found: _token(found, tokens, quote), text)
    return text if quote else _VARIABLE.sub(lambda found: os.environ.get(found[1], ""), text)


def _token(found: re.Match[str], tokens: Mapping[str, str], quote: bool) -> str:
    value = tokens.get(found[1])
    if value is None:
        return found[0]
    return shlex.quote(value) if quote and found[1] != "%" else value


def _paths(values: list[str], tokens: Mapping[str, str]) -> list[Path]:
    return [Path(_expand(value.strip('"'), tokens)).expanduser() for value in values]


def _identities(answers: Mapping[str, list[str]], tokens: Mapping[str, str]) -> tuple[Path, ...]:
    """The private keys that are there and can be used without a person: ssh lists its defaults too."""
    usable = []
    for path in _paths([value for value in answers.get("identityfile", []) if value != "none"], tokens):
        try:
            asyncssh.read_private_key(path)
        except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
            continue  # missing, a public key only, or locked by a passphrase: the agent may hold it
        usable.append(path)
    return tuple(usable)


def _agent(answers: Mapping[str, list[str]], tokens: Mapping[str, str]) -> str | None:
    named = answers.get("identityagent", ["SSH_AUTH_SOCK"])[0]
    if named == "none":
        return None
    if named == "SSH_AUTH_SOCK" or named.startswith("$"):
        return os.environ.get(named.strip("${}")) or None
    return str(_paths([named], tokens)[0])


def _known(
    answers: Mapping[str, list[str]], tokens: Mapping[str, str], host: str, port: int
) -> tuple[asyncssh.SSHKey, ...]:
    """The person's known keys of the host, without those that they revoked. ``ssh-keygen -F`` understands hashed
    names; asyncssh gives up on a whole file for one bad line."""
    alias = answers.get("hostkeyalias", [""])[0]
    name = alias or (host if port == 22 else f"[{host}]:{port}")
    values = answers.get("userknownhostsfile", []) + answers.get("globalknownhostsfile", [])
    files = [path for path in _paths(" ".join(values).split(), tokens) if path.is_file()]
    lines: list[str] = []
    revoked: list[str] = []
    for file in files:
        found = subprocess.run(
            ["ssh-keygen", "-F", name, "-f", str(file)], capture_output=True, text=True, timeout=_ASK_S
        )
        for line in found.stdout.splitlines():
            if line.startswith("@revoked "):
                revoked.append(line.split(" ", 2)[2])
            elif line and not line.startswith(("#", "@")):
                lines.append(line.partition(" ")[2])
    never = parse_keys(revoked)
    return tuple(key for key in parse_keys(lines) if key not in never)
