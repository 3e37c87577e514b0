"""A box ends itself in the way that stops its bill, where it can; an owned one never."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from vl_agent import deadman, recognise
from vl_agent.deadman import Apis
from vl_agent.recognise import Place

from tests.agent.metadata import Answer, Azure, Google, Metadata, serving


class Api(Metadata):
    """Providers' APIs. ``refuses``: requests that get 403."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: set[str] = set()
        self.keys: set[str] = set()

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.keys.add(headers.get("authorization", ""))
        if any(refused in f"{method} {path}" for refused in self.refuses):
            return Answer(403, json.dumps({"error": "not allowed"}))
        return Answer(200, "{}") if path == "/graphql" else Answer(204 if method == "DELETE" else 202)

    @property
    def apis(self) -> Apis:
        return Apis(self.url, self.url, self.url, self.url)


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All the programs there are: shutdown, sudo and scancel, which note what they were called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("shutdown", "sudo", "scancel", "off"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/called\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(deadman, "_TRIES", 2)
    original = asyncio.sleep
    monkeypatch.setattr(deadman.asyncio, "sleep", lambda seconds: original(min(seconds, 0.05)))
    return tmp_path / "called"


def called(programs: Path) -> list[str]:
    return programs.read_text().splitlines() if programs.exists() else []


SHUTDOWN = "shutdown -h now" if os.geteuid() == 0 else "sudo -n shutdown -h now"


async def test_a_box_launched_so_that_a_shutdown_terminates_it_shuts_down(programs: Path) -> None:
    assert await deadman.end(Place("aws", end="shutdown"), owned=False) == ""
    assert called(programs) == [SHUTDOWN]


@pytest.mark.parametrize("provider", ["aws", "nebius", "verda", "lambda", "oci", ""])
async def test_where_a_shutdown_would_not_end_the_bill_nothing_is_done_and_that_is_said(
    provider: str, programs: Path
) -> None:
    way = deadman.way(Place(provider), owned=False)
    assert way.means == "none"
    assert "its controller ends it" in way.words
    assert await deadman.end(Place(provider), owned=False) == ""
    assert called(programs) == []


@pytest.mark.parametrize("provider", ["aws", "gcp", "azure", "runpod", "vast", "slurm", "kubernetes"])
@pytest.mark.parametrize("end", ["", "shutdown", "delete", "command"])
async def test_an_owned_box_is_never_ended(provider: str, end: str, programs: Path) -> None:
    place = Place(provider, "marker", "b", end=end, command=("off",))  # type: ignore[arg-type]
    assert deadman.way(place, owned=True).means == "none"
    assert await deadman.end(place, owned=True) == ""
    assert called(programs) == []


async def test_its_own_command_is_run_and_a_failing_one_is_said(programs: Path) -> None:
    assert await deadman.end(Place(command=("off", "now"), end="command"), owned=False) == ""
    assert called(programs) == ["off now"]
    words = await deadman.end(Place(command=("no-such-program",), end="command"), owned=False)
    assert words.startswith("command:")


async def test_a_slurm_job_is_cancelled_and_a_pod_ends_with_the_agent(programs: Path) -> None:
    assert await deadman.end(Place("slurm", box="7"), owned=False) == ""
    assert await deadman.end(Place("kubernetes"), owned=False) == ""
    assert called(programs) == ["scancel 7"]


async def test_a_vast_container_destroys_itself_by_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINER_API_KEY", "per-instance")
    api = Api()
    with serving(api):
        assert await deadman.end(Place("vast", box="1234568"), owned=False, apis=api.apis) == ""
    assert api.asked == [("DELETE", "/api/v0/instances/1234568/")]
    assert api.keys == {"Bearer per-instance"}


async def test_a_pod_terminates_itself_by_the_older_interface_where_the_newer_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "pod-scoped")
    api = Api()
    with serving(api):
        assert await deadman.end(Place("runpod", box="7h9k"), owned=False, apis=api.apis) == ""
        assert api.asked == [("DELETE", "/v2/pods/7h9k")]
        api.refuses = {"/v2/"}
        assert await deadman.end(Place("runpod", box="7h9k"), owned=False, apis=api.apis) == ""
    assert api.asked[1:] == [("DELETE", "/v2/pods/7h9k"), ("POST", "/graphql")]
    assert json.loads(api.bodies[-1]) == {"query": 'mutation { podTerminate(input: {podId: "7h9k"}) }'}


async def test_what_is_refused_is_said_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "pod-scoped")
    api = Api()
    api.refuses = {"DELETE", "POST"}
    with serving(api):
        words = await deadman.end(Place("runpod", box="7h9k"), owned=False, apis=api.apis)
    assert words.startswith("runpod: ")
    assert "pod-scoped" not in words
    monkeypatch.delenv("RUNPOD_API_KEY")
    assert "has no RUNPOD_API_KEY" in await deadman.end(Place("runpod", box="7h9k"), owned=False, apis=api.apis)


async def test_a_gcp_machine_deletes_itself_or_shuts_down(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    google, api = Google(), Api()
    google.more = {
        "instance/name": "box-1", "instance/zone": "projects/12/zones/us-central1-a", "project/project-id": "proj",
        "instance/service-accounts/default/token": json.dumps({"access_token": "short-lived"}),
    }  # fmt: skip
    with serving(google, api):
        monkeypatch.setenv("GCE_METADATA_HOST", google.url.removeprefix("http://"))
        assert await deadman.end(Place("gcp"), owned=False, apis=api.apis) == ""
        assert api.asked == [("DELETE", "/compute/v1/projects/proj/zones/us-central1-a/instances/box-1")]
        assert api.keys == {"Bearer short-lived"}
        assert called(programs) == []
        api.refuses = {"DELETE"}
        assert await deadman.end(Place("gcp"), owned=False, apis=api.apis) == ""
    assert called(programs) == [SHUTDOWN]


async def test_an_azure_machine_is_deleted_or_deallocated_and_never_only_shut_down(
    monkeypatch: pytest.MonkeyPatch, programs: Path
) -> None:
    azure, api = Azure(), Api()
    machine = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm-0"
    with serving(azure, api):
        monkeypatch.setenv("VL_METADATA_ENDPOINT", azure.url)
        assert await deadman.end(Place("azure"), owned=False, apis=api.apis) == ""
        assert api.asked == [("DELETE", f"{machine}?api-version=2024-07-01")]
        api.refuses = {"DELETE"}
        assert await deadman.end(Place("azure"), owned=False, apis=api.apis) == ""
        assert api.asked[-1] == ("POST", f"{machine}/deallocate?api-version=2024-07-01")
        azure.token_status = 400
        assert "no identity" in await deadman.end(Place("azure"), owned=False, apis=api.apis)
    assert called(programs) == []


def test_the_platforms_keys_are_never_the_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(recognise.KEYS) == {"RUNPOD_API_KEY", "CONTAINER_API_KEY"}
