"""Puts the agent onto a bare box, over the connection itself: nothing is needed there but Python 3.10, no internet.

One bundle a version: the agent, and the compiled packages it needs as the wheels that fit the box. It goes through the
stdin of a small script (2.6 times as quick as SFTP at 100 ms, and works where SFTP is missing), which checks its
SHA-256, unpacks it beside its place and renames it there. A box that has that version is left alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vl_tui.ssh import bundle
from vl_tui.ssh.bundle import InstallError, Platform
from vl_tui.ssh.connection import Connection

PROBE_S = 30.0
SEND_S = 300.0

_PYTHONS = "python3 python3.14 python3.13 python3.12 python3.11 python3.10 /opt/conda/bin/python3"

# Runs on the box. Picks the first folder that can be written: a home may be read-only or full.
_PROBE = """
import json, os, platform, sys
def usable(root):
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        if os.stat(root).st_uid != os.getuid(): return False
        path = os.path.join(root, ".probe-%d" % os.getpid())
        with open(path, "w") as file: file.write("x" * 4096)
        os.unlink(path)
        return True
    except OSError: return False
home = os.path.expanduser("~")
me = os.getuid()
roots = [os.environ.get("VL_HOME", ""), os.path.join(home, ".vl"), "/dev/shm/vl-%d" % me, "/tmp/vl-%d" % me]
root = next((r for r in roots if os.path.isabs(r) and usable(r)), "")
try: boot = open("/proc/sys/kernel/random/boot_id").read().strip()
except OSError: boot = ""
have = sorted(name for name in os.listdir(root) if len(name) == 16) if root else []
print()
print(json.dumps({"python": sys.executable, "version": list(sys.version_info[:2]), "system": platform.system(),
    "machine": platform.machine(), "libc": list(platform.libc_ver()), "root": root, "boot_id": boot, "have": have}))
"""

# Runs on the box with the bundle on stdin. Arguments: root, version, sha256. What a box that lost power left behind is
# swept after an hour; every file is synced before the rename, or the next loss of power could leave empty ones in use.
_RECEIVE = """
import glob, hashlib, os, shutil, sys, tarfile, tempfile, time
root, version, digest = sys.argv[1:4]
place = os.path.join(root, version)
for old in glob.glob(os.path.join(root, ".part-*")) + glob.glob(os.path.join(root, ".new-*")):
    try:
        if os.stat(old).st_mtime > time.time() - 3600: continue
        if os.path.isdir(old): shutil.rmtree(old, ignore_errors=True)
        else: os.unlink(old)
    except OSError: pass
def copy(source, sink):
    shutil.copyfileobj(source, sink, 1 << 20)
    sink.flush()
    os.fsync(sink.fileno())
part = new = ""
total = hashlib.sha256()
try:
    number, part = tempfile.mkstemp(prefix=".part-", dir=root)
    with os.fdopen(number, "wb") as file:
        while True:
            chunk = sys.stdin.buffer.read(1 << 20)
            if not chunk: break
            total.update(chunk); file.write(chunk)
    if total.hexdigest() != digest: sys.exit("the bundle arrived damaged")
    new = tempfile.mkdtemp(prefix=".new-", dir=root)
    with tarfile.open(part) as tar:
        for member in tar:
            if not member.isfile() or member.name[:1] == "/" or ".." in member.name.split("/"): sys.exit("bad name")
            path = os.path.join(new, member.name)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with tar.extractfile(member) as source, open(path, "wb") as sink: copy(source, sink)
    try: os.rename(new, place)
    except OSError:
        if not os.path.isdir(place): raise
finally:
    if part: os.unlink(part)
    if new: shutil.rmtree(new, ignore_errors=True)
print("ready")
"""

_RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from vl_agent.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Install:
    """An agent on a box."""

    python: str
    root: str
    version: str
    boot_id: str

    def command(self, args: Sequence[str]) -> str:
        """The shell command that runs ``vl-agent ARGS`` there, whatever the login shell is."""
        site = f"{self.root}/{self.version}/site"
        words = ["exec", "env", f"VL_HOME={self.root}", self.python, "-I", "-c", _RUN, site, *args]
        return shell(" ".join(shlex.quote(word) if word != "exec" else word for word in words))


def shell(line: str) -> str:
    """``line`` for ``/bin/sh``, also where the login shell is fish or csh."""
    return f"exec /bin/sh -c {shlex.quote(line)}"


async def install_agent(conn: Connection, *, cache: Path) -> Install:
    """Make sure that this version's agent is on the box. ``cache``: the operator's own folder for bundles and wheels.
    Raises ``InstallError`` (the box can't have it) and ``SshError``."""
    probe = await _probe(conn)
    platform = Platform.of(conn.name, probe)
    made = await asyncio.to_thread(bundle.build, platform, cache)
    install = Install(str(probe["python"]), str(probe["root"]), made.version, str(probe["boot_id"]))
    if made.version not in probe["have"]:
        await _send(conn, install, made.path)
    return install


async def _probe(conn: Connection) -> dict[str, Any]:
    test = "import sys; sys.exit(sys.version_info < (3, 10))"
    line = (
        f"for p in {_PYTHONS}; do command -v $p >/dev/null 2>&1 && $p -I -c {shlex.quote(test)} 2>/dev/null"
        f" && exec $p -I -c {shlex.quote(_PROBE)}; done; exit 43"
    )
    done = await conn.run(shell(line), timeout=PROBE_S)
    if done.exit_status == 43:
        raise InstallError(f"{conn.name}: has no Python 3.10 or newer (tried {_PYTHONS}): install one there.")
    if done.exit_status != 0:
        raise InstallError(f"{conn.name}: Python there fails: {_last(done.stderr)}.")
    return _parse(conn.name, done.stdout)


async def _send(conn: Connection, install: Install, path: Path) -> None:
    body = await asyncio.to_thread(path.read_bytes)
    words = [install.python, "-I", "-c", _RECEIVE, install.root, install.version, hashlib.sha256(body).hexdigest()]
    done = await conn.run(shell("exec " + shlex.join(words)), stdin=body, timeout=SEND_S)
    if done.exit_status != 0:
        raise InstallError(f"{conn.name}: the agent could not be put into {install.root}: {_last(done.stderr)}.")


def _last(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return "".join(char for char in (lines[-1] if lines else "no reason told") if char.isprintable())[:200]


def _parse(name: str, out: bytes) -> dict[str, Any]:
    for line in reversed(out.splitlines()):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and isinstance(found.get("have"), list) and "boot_id" in found:
            return found
    raise InstallError(f"{name}: its answer to the first question can't be read.")
