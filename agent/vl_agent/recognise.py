"""Where am I: which provider's box this is, which notices it may get, how it may end itself.

Asked in this order, cheap first: the marker that whoever launched it wrote, environment variables (also of process 1:
an SSH session may lack what the container has), the machine's DMI strings, and last one request to the link-local
address, which alone proves nothing: every cloud answers there. A container inherits its host's DMI: variables go first.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vl_agent import direct
from vl_agent.notices import WINDOW_S, oci
from vl_agent.protocol import BoxEnd, BoxMarker, ProtocolError, decode

MARKER = "etc/vl-agent/box.json"
METADATA = "http://169.254.169.254"
METADATA_S = 0.3
KEYS = ("RUNPOD_API_KEY", "CONTAINER_API_KEY")
"""Keys that a platform puts into its containers: the agent's, to end the box with, and not the training's."""
WAKE = ("vast", "gcp", "azure", "nebius", "slurm")
"""Where a box that was stopped, or a job, may begin again without anybody's doing."""
_NAMES = (
    "RUNPOD_POD_ID", "CONTAINER_ID", "VAST_CONTAINERLABEL", "SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT", *KEYS,
)  # fmt: skip
_MOST = 256 * 1024

_USUAL: Mapping[str, tuple[str, ...]] = {
    "aws": ("signal", "aws"),
    "gcp": ("signal", "gcp"),
    "azure": ("signal", "azure"),
    "slurm": ("signal", "slurm"),
}
"""Sources of notices by provider; of any other: signals."""
_BY_SIGNAL = ("kubernetes", "gke", "slurm", "runpod", "nebius", "vast", "gcp")
"""Where SIGTERM is the provider's own notice, or comes together with it."""


@dataclass(frozen=True)
class Place:
    """What this box is. ``provider`` is empty where nothing tells."""

    provider: str = ""
    how: str = ""
    """marker, environment, machine or metadata."""
    box: str = ""
    notices: tuple[str, ...] = ("signal",)
    window_s: float | None = None
    """What a notice leaves, where the marker says so."""
    end: BoxEnd = ""
    command: tuple[str, ...] = ()

    @property
    def signal_window_s(self) -> float | None:
        """What SIGTERM leaves; None: nobody knows."""
        if self.provider not in _BY_SIGNAL:
            return None
        return WINDOW_S[self.provider] if self.window_s is None or self.provider == "gcp" else self.window_s


def here(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> Place:
    """What this box is, without asking the network."""
    own = os.environ if environ is None else environ
    found = _by_marker(root / own.get("VL_MARKER", MARKER)) or _by_environment(environment(own, root), root)
    place = found or _by_machine(root) or Place()
    command = own.get("VL_POWEROFF", "")
    return replace(place, end="command", command=tuple(shlex.split(command))) if command else place


def environment(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> dict[str, str]:
    """What tells a platform, of our own environment, else of process 1's, where we may read it. Holds keys."""
    own = os.environ if environ is None else environ
    try:
        first = dict(_pair(entry) for entry in (root / "proc/1/environ").read_bytes()[:_MOST].split(b"\0"))
    except OSError:
        first = {}
    return {name: value for name in _NAMES if (value := own.get(name) or first.get(name, ""))}


async def by_metadata() -> Place | None:
    """What answers at the link-local address (``VL_METADATA_ENDPOINT`` names another; empty: nothing is asked). One
    request that each of the four big clouds answers in its own way."""
    base = os.environ.get("VL_METADATA_ENDPOINT", METADATA)
    if not base:
        return None
    headers = {**oci.HEADERS, "Metadata-Flavor": "Google", "Metadata": "true"}
    try:
        reply = await direct.ask(base, "GET", oci.PATH, headers, timeout_s=METADATA_S)
    except direct.NoAnswer:
        return None
    provider = _who_answers(reply)
    return Place(provider, "metadata", notices=_usual(provider)) if provider else None


def metadata_address() -> str:
    """Where the clouds' metadata services are asked."""
    return os.environ.get("VL_METADATA_ENDPOINT") or METADATA


def _who_answers(reply: direct.Reply) -> str:
    server = reply.headers.get("server", "")
    if reply.headers.get("metadata-flavor") == "Google":
        return "gcp"
    if oci.is_instance(reply):
        return "oci"
    if server.startswith("EC2ws"):
        return "aws"
    return "azure" if server.startswith("IMDS/") else ""


def _usual(provider: str) -> tuple[str, ...]:
    return _USUAL.get(provider, ("signal",))


def _pair(entry: bytes) -> tuple[str, str]:
    name, _, value = entry.decode("utf-8", "replace").partition("=")
    return name, value


def _by_marker(path: Path) -> Place | None:
    """The marker, where it is one and nobody but root or our own user could have written it."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid not in (0, os.getuid()) or stat.S_IMODE(status.st_mode) & 0o022:
                return None
            marker = decode(BoxMarker, file.read(_MOST))
    except (OSError, ProtocolError):
        return None
    notices = marker.notices or _usual(marker.provider)
    return Place(marker.provider, "marker", marker.box, notices, marker.window_s, marker.end, marker.command)


def _by_environment(found: Mapping[str, str], root: Path) -> Place | None:
    if "RUNPOD_POD_ID" in found:
        return Place("runpod", "environment", found["RUNPOD_POD_ID"])
    if "VAST_CONTAINERLABEL" in found or "CONTAINER_API_KEY" in found:
        return Place("vast", "environment", found.get("CONTAINER_ID") or found.get("VAST_CONTAINERLABEL", "")[2:])
    if "SLURM_JOB_ID" in found:
        return Place("slurm", "environment", found["SLURM_JOB_ID"], _with_host(("signal", "slurm"), root))
    if "KUBERNETES_SERVICE_HOST" in found:
        host = _by_machine(root)
        provider = "gke" if host is not None and host.provider == "gcp" else "kubernetes"
        return Place(provider, "environment", notices=_with_host(("signal",), root))
    if "AWS_EC2_METADATA_SERVICE_ENDPOINT" in found:
        return Place("aws", "environment", notices=_usual("aws"))
    return None


def _with_host(notices: tuple[str, ...], root: Path) -> tuple[str, ...]:
    """What runs on a cloud's machine may hear that machine's notice as well, and earlier."""
    host = _by_machine(root)
    return notices if host is None else (*notices, *(name for name in host.notices if name not in notices))


def _by_machine(root: Path) -> Place | None:
    def dmi(name: str) -> str:
        try:
            return (root / "sys/class/dmi/id" / name).read_text(errors="replace").strip()
        except OSError:
            return ""

    if dmi("sys_vendor") == "Amazon EC2":
        tag = dmi("board_asset_tag")
        return Place("aws", "machine", tag if tag.startswith("i-") else "", _usual("aws"))
    if dmi("product_name") == "Google Compute Engine":
        return Place("gcp", "machine", notices=_usual("gcp"))
    if dmi("chassis_asset_tag") == "7783-7084-3265-9085-8269-3286-77":
        return Place("azure", "machine", notices=_usual("azure"))
    if dmi("chassis_asset_tag") == "OracleCloud.com":
        return Place("oci", "machine")
    return None
