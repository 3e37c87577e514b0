"""A notice is heard, the script saves at once where it can, and the run is released with nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from vl_agent.notices import Notice, aws

from tests.agent.held import Held
from tests.agent.protected import train, until


class Metadata(BaseHTTPRequestHandler):
    """EC2's instance metadata service, version 2 only."""

    action: ClassVar[bytes | None] = None
    tokens: ClassVar[set[str]] = set()
    asked: ClassVar[list[tuple[str, str]]] = []
    no_tokens: ClassVar[bool] = False

    def do_PUT(self) -> None:
        self.asked.append(("PUT", self.path))
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not ttl.isdigit() or self.no_tokens:
            return self._answer(403)
        self.tokens.add(f"token-{len(self.asked)}")
        return self._answer(200, f"token-{len(self.asked)}".encode())

    def do_GET(self) -> None:
        self.asked.append(("GET", self.path))
        if self.headers.get("X-aws-ec2-metadata-token") not in self.tokens:
            return self._answer(401)
        if self.path != "/latest/meta-data/spot/instance-action" or self.action is None:
            return self._answer(404)
        return self._answer(200, self.action)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def imds(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Metadata]]:
    class Fresh(Metadata):
        tokens: ClassVar[set[str]] = set()
        asked: ClassVar[list[tuple[str, str]]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("VL_NOTICE_POLL_S", "0.2")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # the address is the machine itself: never through a proxy
    yield Fresh
    server.shutdown()
    server.server_close()


@contextlib.asynccontextmanager
async def heard() -> Any:
    notices: list[Notice] = []
    endpoint = aws.here()
    assert endpoint is not None
    task = asyncio.create_task(aws.watch(endpoint, notices.append))
    try:
        yield notices
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


ACTION = json.dumps({"action": "terminate", "time": "2026-11-24T02:18:22Z"}).encode()


async def test_a_spot_notice_is_heard_once_with_its_moment(imds: type[Metadata]) -> None:
    async with heard() as notices:
        await until(lambda: len(imds.asked) > 3)
        assert notices == []
        imds.action = ACTION
        await until(lambda: notices)
        asked = len(imds.asked)
    assert notices == [Notice("aws", 1795486702.0, "spot instance-action terminate")]
    assert imds.asked.count(("PUT", "/latest/api/token")) == 1, "one token serves many looks"
    assert len(imds.asked) == asked


async def test_a_token_that_has_ended_is_asked_for_again(imds: type[Metadata]) -> None:
    async with heard() as notices:
        await until(lambda: len(imds.asked) > 2)
        imds.tokens.clear()
        imds.action = ACTION
        await until(lambda: notices)


async def test_a_service_that_gives_no_token_or_none_at_all_is_asked_again(imds: type[Metadata]) -> None:
    imds.action, imds.no_tokens = ACTION, True
    async with heard() as notices:
        await until(lambda: len(imds.asked) > 2)
        assert notices == []
        imds.no_tokens = False
        await until(lambda: notices)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"terminate"', b"x" * 9000])
async def test_an_answer_that_is_none_is_no_notice(imds: type[Metadata], body: bytes) -> None:
    imds.action = body
    async with heard() as notices:
        await until(lambda: imds.asked.count(("GET", "/latest/meta-data/spot/instance-action")) > 1)
        assert notices == []
        imds.action = ACTION
        await until(lambda: notices)


async def test_a_notice_without_a_readable_moment_is_a_notice(imds: type[Metadata]) -> None:
    imds.action = b'{"action": "stop", "time": "soon"}'
    async with heard() as notices:
        await until(lambda: notices)
    assert notices == [Notice("aws", None, "spot instance-action stop")]


def test_elsewhere_the_link_local_address_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", raising=False)
    monkeypatch.setattr(Path, "read_text", lambda _: "QEMU")
    assert aws.here() is None
    monkeypatch.setattr(Path, "read_text", lambda _: "Amazon EC2\n")
    assert aws.here() == "http://169.254.169.254"


# ------------------------------------------------------------------------------------------------- what follows one


def words(*options: object) -> str:
    import shlex

    return "exec " + shlex.join(train(*options))


def journal(held: Held) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (held.folder / "epoch-1" / "journal.jsonl").read_text().splitlines()]


def fields(held: Held, kind: str) -> dict[str, Any]:
    (event,) = [event for event in journal(held) if event["kind"] == kind]
    return event


async def test_with_the_helper_the_script_saves_at_once_and_the_run_is_released(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin(words("--helper", "--wait-at", 7))
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.step == 7)
    deadline = time.time() + 60
    for _ in range(3):
        attempt.notice(Notice("aws", deadline, "spot instance-action terminate"))
    ended = await asyncio.wait_for(running, 30)
    assert (ended.cause, ended.code) == ("notice", 75)
    head = held.head_in_store()
    assert (head.state, head.checkpoint.step) == ("released", 7)  # type: ignore[union-attr]
    assert head.detail.startswith("notice")
    assert fields(held, "notice")["source"] == "aws"
    assert fields(held, "notice_save")["choice"] == "fresh"
    assert held.status.notice_deadline == deadline
    held.checked()


async def test_a_launcher_that_makes_1_of_every_exit_status_is_told_apart_from_a_failure(tmp_path: Path) -> None:
    """As torchrun does with those of its ranks."""
    held = Held(tmp_path)
    await held.begin(words("--helper", "--wait-at", 7).removeprefix("exec ") + " || exit 1")
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.step == 7)
    attempt.notice(Notice("aws", time.time() + 60, "spot instance-action terminate"))
    ended = await asyncio.wait_for(running, 30)
    assert (ended.cause, ended.code) == ("notice", 1)
    assert held.head_in_store().state == "released"


async def test_a_notice_before_the_script_has_begun_is_not_lost(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin(words("--helper", "--wait-at", 7))
    attempt = held.attempt()
    attempt.notice(Notice("signal", None, "SIGTERM"))
    ended = await asyncio.wait_for(attempt.run("box-1"), 30)
    assert ended.cause == "notice"
    assert held.head_in_store().state == "released"


async def test_without_the_helper_it_trains_on_and_each_save_becomes_durable(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin(words("--steps", 20, "--wait-at", 12))
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.durable_step == 10)
    attempt.notice(Notice("signal", None, "SIGTERM"))
    assert fields(held, "notice_save")["choice"] == "upload"
    (held.work / "go").touch()
    assert (await asyncio.wait_for(running, 30)).cause == "finished"
    assert held.head_in_store().checkpoint.step == 20  # type: ignore[union-attr]


async def test_a_script_that_says_told_to_stop_but_was_not_has_not_finished(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin("exit 75")
    ended = await asyncio.wait_for(held.attempt().run("box-1"), 30)
    assert ended.cause == "unknown"
    assert "but it was not" in ended.detail
    assert held.head_in_store().state == "released"
