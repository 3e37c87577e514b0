"""What a box reaches the store with: minted by a real STS for its run alone, tried, renewed; and what happens where a
store issues none, or worthless ones."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from vl_agent import head as heads
from vl_agent.protocol import CheckpointPolicy, RunSpec, head_key
from vl_agent.store import Denied, Store, StoreError, open_store

from vl_tui.config import FleetConfig, load_fleet
from vl_tui.controller.credentials import Credentials
from vl_tui.demo.s3 import S3Server
from vl_tui.ssh.connection import Unreachable
from vl_tui.store import scoped as minting
from vl_tui.store.scoped import NotMinted, scoped


def fleet(folder: Path, s3: S3Server, url: str, more: str = "") -> FleetConfig:
    path = folder / "fleet.yaml"
    path.write_text(
        f"fleet: test\nstore: {url}\nendpoint: {s3.endpoint}\nregion: us-east-1\n"
        f"providers: [{{kind: local, socket: /none}}]\n{more}"
    )
    return load_fleet(path)


@pytest.fixture
async def url(s3: S3Server, s3_url: str) -> str:
    """A store with two runs."""
    store = open_store(s3_url, s3.options)
    for name in ("mine", "other"):
        await heads.submit(store, RunSpec(name, "test", "true", CheckpointPolicy("ckpt")))
    await store.close()
    return s3_url


async def refuses(act: object) -> bool:
    try:
        await act  # type: ignore[misc]
    except Denied:
        return True
    return False


async def test_a_boxs_credentials_open_its_own_run_and_nothing_else(tmp_path: Path, s3: S3Server, url: str) -> None:
    found = await scoped(fleet(tmp_path, s3, url, f"box_credentials: {{role: {s3.role}}}\n"), s3.options, "mine")
    assert found.warning == ""
    assert found.expires_at is not None
    assert 3000 < found.expires_at - time.time() < 3700
    assert found.options["secret_access_key"] != s3.secret_key
    assert found.options["secret_access_key"] not in repr(found)
    box: Store = open_store(url, found.options)
    try:
        assert (await heads.read(box, "mine"))[0].state == "waiting"
        await heads.stamp(box, "mine", generation=1)
        await box.put("runs/mine/blobs/a-1-1", b"a")
        (tmp_path / "big").write_bytes(b"b" * (20 << 20))
        await box.put_file("runs/mine/blobs/b-1-2", tmp_path / "big")
        assert [entry.key for entry in await box.list("runs/mine/blobs/")]
        await box.delete("runs/mine/blobs/a-1-1")
        assert await refuses(box.get(head_key("other")))
        assert await refuses(box.put("runs/other/blobs/a-1-1", b"a"))
        assert await refuses(box.delete(head_key("other")))
        assert await refuses(box.put("fleet/lease.json", b"{}"))
        assert await refuses(box.list("runs/"))
    finally:
        await box.close()


async def test_a_store_that_issues_none_gives_the_fleets_keys_with_a_warning_a_person_can_act_on(
    tmp_path: Path, s3: S3Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minting, "_ANY_ROLE", "arn:aws:iam::000000000000:role/not-there")
    found = await scoped(fleet(tmp_path, s3, url), s3.options, "mine")
    assert found.options["secret_access_key"] == s3.secret_key
    assert found.expires_at is None
    assert "role" in found.warning
    assert s3.secret_key not in found.warning


async def test_who_named_a_role_is_never_given_the_fleets_keys_instead(tmp_path: Path, s3: S3Server, url: str) -> None:
    wrong = fleet(tmp_path, s3, url, "box_credentials: {role: 'arn:aws:iam::role/not-there'}\n")
    with pytest.raises(NotMinted, match="AccessDenied"):
        await scoped(wrong, s3.options, "mine")
    with pytest.raises(Unreachable, match="mine"):
        await Credentials(wrong, s3.options, lambda _: None).of("mine")


async def test_what_opens_everything_or_nothing_is_not_believed(
    tmp_path: Path, s3: S3Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fleet(tmp_path, s3, url, f"box_credentials: {{role: {s3.role}}}\n")
    everything = json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}]}
    )
    monkeypatch.setattr(minting, "policy", lambda bucket, prefix: everything)
    with pytest.raises(NotMinted, match="not limited"):
        await scoped(config, s3.options, "mine")
    monkeypatch.setattr(
        minting, "policy", lambda bucket, prefix: everything.replace('"*"', '"arn:aws:s3:::elsewhere/*"')
    )
    with pytest.raises(NotMinted, match="opens nothing"):
        await scoped(config, s3.options, "mine")


async def test_they_are_asked_for_once_renewed_before_they_end_and_kept_while_the_store_fails(
    tmp_path: Path, s3: S3Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fleet(tmp_path, s3, url, f"box_credentials: {{role: {s3.role}, lasts: 1h}}\n")
    held = Credentials(config, s3.options, lambda _: None)
    first, again = await asyncio.gather(held.of("mine"), held.of("mine"))
    assert first is again
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 0.7 * 3600)
    renewed = await held.of("mine")
    assert renewed is not first
    assert renewed.options != first.options
    monkeypatch.setattr(time, "time", lambda: now + 0.8 * 3600)

    async def fails(*_: object) -> object:
        raise NotMinted("STS can't be asked")

    late = Credentials(config, s3.options, lambda _: None)
    late._found["mine"] = first, 0.0
    monkeypatch.setattr("vl_tui.controller.credentials.scoped", fails)
    assert await late.of("mine") is first, "still good for a while"


async def test_a_store_goes_on_with_new_credentials(tmp_path: Path, s3: S3Server, url: str) -> None:
    config = fleet(tmp_path, s3, url, f"box_credentials: {{role: {s3.role}}}\n")
    box = open_store(url, {**s3.options, "secret_access_key": "ended"})
    try:
        with pytest.raises(StoreError):
            await box.get(head_key("mine"))
        found = await scoped(config, s3.options, "mine")
        box.renew({**found.options, "endpoint": "http://127.0.0.1:9"})  # only the credentials are taken
        assert (await heads.read(box, "mine"))[0].state == "waiting"
    finally:
        await box.close()


class CloudflareApi(BaseHTTPRequestHandler):
    """Cloudflare's r2/temp-access-credentials, as its documentation has it."""

    asked: list[tuple[str, str, dict[str, object]]] = []
    status = 200

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers["Authorization"], body))
        result = {"accessKeyId": "AKID", "secretAccessKey": "made", "sessionToken": "token"}
        answer = {"success": True, "result": result} if self.status == 200 else {"success": False, "errors": []}
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def cloudflare(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[CloudflareApi]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), CloudflareApi)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("VL_CLOUDFLARE_API", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "api-token")
    CloudflareApi.asked, CloudflareApi.status = [], 200
    yield CloudflareApi
    server.shutdown()
    server.server_close()


def r2(folder: Path) -> FleetConfig:
    path = folder / "fleet.yaml"
    path.write_text(
        "fleet: test\nstore: s3://bucket/some/prefix\nendpoint: https://acc0unt.r2.cloudflarestorage.com\n"
        "providers: [{kind: local, socket: /none}]\nbox_credentials: {lasts: 2h}\n"
    )
    return load_fleet(path)


async def test_r2_is_asked_for_the_runs_prefix_alone(
    tmp_path: Path, cloudflare: type[CloudflareApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(*_: object) -> None:
        return

    monkeypatch.setattr(minting, "_tried", unreachable)  # there is no R2 here to try them at
    found = await scoped(r2(tmp_path), {"access_key_id": "PARENT", "secret_access_key": "s"}, "mine")
    [(path, authorization, body)] = cloudflare.asked
    assert path == "/accounts/acc0unt/r2/temp-access-credentials"
    assert authorization == "Bearer api-token"
    assert body == {
        "bucket": "bucket", "parentAccessKeyId": "PARENT", "permission": "object-read-write", "ttlSeconds": 7200,
        "prefixes": ["some/prefix/runs/mine/"],
    }  # fmt: skip
    assert (found.options["session_token"], found.warning) == ("token", "")


async def test_an_r2_that_refuses_is_said_without_the_token(tmp_path: Path, cloudflare: type[CloudflareApi]) -> None:
    cloudflare.status = 403
    found = await scoped(r2(tmp_path), {"access_key_id": "PARENT", "secret_access_key": "s"}, "mine")
    assert "R2's API refuses: status 403" in found.warning
    assert "api-token" not in found.warning
