"""The metadata services of four clouds, as their documentation has them, on this machine. Each has what goes wrong with
such a service as well: ``fault``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from vl_agent.notices import Notice

Fault = Literal["", "slow", "500", "reset", "redirect", "html", "unflavoured"]
FAULTS: tuple[Fault, ...] = ("slow", "500", "reset", "redirect", "html")


class Answer:
    def __init__(self, status: int, body: str = "", **headers: str) -> None:
        self.status, self.body, self.headers = status, body.encode(), headers


class Metadata:
    """Serves from ``with``. ``elsewhere`` is where its redirects point to: it gives every notice there is."""

    headers: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.fault: Fault = ""
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.elsewhere = ""
        self.closed = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def count(self, method: str, path: str) -> int:
        return sum(asked[0] == method and asked[1].startswith(path) for asked in self.asked)

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        raise NotImplementedError

    def __enter__(self) -> Any:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                service.asked.append((self.command, self.path))
                service.bodies.append(body)
                if service.fault == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    return
                if service.fault == "slow" and service.closed.wait(8.0):
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                self._send(service.spoilt(service.answer(self.command, self.path, headers, body), self.path))

            do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

            def _send(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name, value in {**service.headers, **answer.headers}.items():
                    if not (service.fault == "unflavoured" and name == "Metadata-Flavor"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                return

            def version_string(self) -> str:
                return service.headers.get("Server", "test")

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle()

            def finish(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    super().finish()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def spoilt(self, answer: Answer, path: str) -> Answer:
        if self.fault == "500":
            return Answer(500, "oops")
        if self.fault == "redirect":
            return Answer(302, "", Location=f"{self.elsewhere}{path}")
        if self.fault == "html":
            return Answer(200, "<html>log in first</html>", **{"Content-Type": "text/html"})
        return answer

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


class Ec2(Metadata):
    """IMDSv2. ``hop_limit``: the token's answer never reaches a container."""

    headers = {"Server": "EC2ws"}

    def __init__(self) -> None:
        super().__init__()
        self.tokens: set[str] = set()
        self.gives_tokens, self.hop_limit = True, False
        self.action: str | None = None
        self.rebalance: str | None = None

    def notice(self, action: str, in_s: float) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + in_s))
        self.action = json.dumps({"action": action, "time": stamp})

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if path == "/latest/api/token":
            ttl = headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
            if self.hop_limit:
                self.closed.wait(10.0)
            if method != "PUT" or not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
                return Answer(400)
            if not self.gives_tokens or "x-forwarded-for" in headers:
                return Answer(403)
            self.tokens.add(token := f"token-{len(self.asked)}")
            return Answer(200, token)
        if headers.get("x-aws-ec2-metadata-token") not in self.tokens:
            return Answer(401)
        found = {
            "/latest/meta-data/spot/instance-action": self.action,
            "/latest/meta-data/events/recommendations/rebalance": self.rebalance,
        }.get(path)
        return Answer(404) if found is None else Answer(200, found)


class Google(Metadata):
    """Requests hang until the value changes. ``hangs`` False: a server that answers at once, whatever is asked."""

    headers = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}

    def __init__(self) -> None:
        super().__init__()
        self.values = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self.more: dict[str, str] = {}
        self.hangs = True
        self.drops = False
        self._changed = threading.Condition()

    def set(self, name: str, value: str) -> None:
        with self._changed:
            self.values[name] = value
            self._changed.notify_all()

    def drop(self) -> None:
        """End every request that hangs, by 503."""
        with self._changed:
            self.drops = True
            self._changed.notify_all()

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if headers.get("metadata-flavor") != "Google":
            return Answer(403)
        name, _, query = path.removeprefix("/computeMetadata/v1/").partition("?")
        if name in self.more:
            return Answer(200, self.more[name])
        name = name.removeprefix("instance/")
        if name not in self.values:
            return Answer(404)
        asked = dict(pair.split("=", 1) for pair in query.split("&") if pair)
        end = time.monotonic() + min(float(asked.get("timeout_sec", "0")), 20.0)
        with self._changed:
            while self.hangs and asked.get("last_etag") == self._etag(name) and time.monotonic() < end:
                if self.drops:
                    self.drops = False
                    return Answer(503)
                self._changed.wait(0.05)
                if self.closed.is_set():
                    break
            return Answer(200, self.values[name], ETag=self._etag(name))

    def _etag(self, name: str) -> str:
        return f"{abs(hash((name, self.values[name]))):x}"


class Azure(Metadata):
    """Scheduled events. What is acknowledged is in ``started``."""

    headers = {"Server": "IMDS/150.870.65.1854"}

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []
        self.started: list[str] = []
        self.first_s = 0.0
        self.token_status = 200

    def schedule(self, kind: str, in_s: float | None, *machines: str, id: str = "602d9444") -> None:
        """``in_s`` None: it has started."""
        not_before = "" if in_s is None else formatdate(time.time() + in_s, usegmt=True)
        status = "Started" if in_s is None else "Scheduled"
        self.events = [{
            "EventId": id, "EventType": kind, "ResourceType": "VirtualMachine",
            "Resources": list(machines or ("vm-0",)), "EventStatus": status, "NotBefore": not_before,
            "Description": "", "EventSource": "Platform", "DurationInSeconds": -1,
        }]  # fmt: skip

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if headers.get("metadata") != "true":
            return Answer(400)
        if path == "/metadata/instance/compute/name?api-version=2021-02-01&format=text":
            return Answer(200, "VM-0")
        if path == "/metadata/instance/compute/resourceId?api-version=2021-02-01&format=text":
            return Answer(200, "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm-0")
        if path.startswith("/metadata/identity/oauth2/token?"):
            return Answer(self.token_status, json.dumps({"access_token": "identity-token"}))
        if path != "/metadata/scheduledevents?api-version=2020-07-01":
            return Answer(404)
        if method == "POST":
            self.started += [one["EventId"] for one in json.loads(body)["StartRequests"]]
            return Answer(200)
        if self.first_s:
            self.closed.wait(self.first_s)
            self.first_s = 0.0
        return Answer(200, json.dumps({"DocumentIncarnation": 1, "Events": self.events}))


class Oracle(Metadata):
    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if headers.get("authorization") != "Bearer Oracle" or path != "/opc/v2/instance/":
            return Answer(404)
        action = {"type": "TERMINATE", "preserveBootVolume": False}
        config = {"displayName": "vl-r1-e1", "preemptibleInstanceConfig": {"preemptionAction": action}}
        return Answer(200, json.dumps(config))


class Heard:
    """An ear that remembers."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.others: list[tuple[str, str, str]] = []

    def notice(self, notice: Notice) -> None:
        self.notices.append(notice)

    def withdrawn(self, source: str, detail: str) -> None:
        self.others.append(("withdrawn", source, detail))

    def advice(self, source: str, detail: str) -> None:
        self.others.append(("advice", source, detail))

    def trouble(self, source: str, words: str) -> None:
        self.others.append(("trouble", source, words))

    def of(self, kind: str) -> list[str]:
        return [detail for name, _, detail in self.others if name == kind]


@contextlib.asynccontextmanager
async def watching(watch: Any) -> Any:
    """``watch`` runs meanwhile."""
    task = asyncio.create_task(watch)
    try:
        yield task
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.contextmanager
def serving(*services: Metadata) -> Iterator[None]:
    """The last one is where the others redirect to."""
    with contextlib.ExitStack() as stack:
        for service in services:
            stack.enter_context(service)
        for service in services:
            service.elsewhere = services[-1].url
        yield
