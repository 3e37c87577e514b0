"""At risk, said aloud: each reason by name, once, with its age, wherever a person looks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from vl_agent import paths, run
from vl_agent.protocol import Beat, decode, encode
from vl_agent.reach import Reach
from vl_agent.status import Status
from vl_agent.store import Denied, Unanswered

from tests.agent.held import Told


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def status() -> Status:
    return Status(1)


def test_each_reason_is_told_once_and_its_end_when_none_is_left(told: Told, status: Status) -> None:
    now = 100.0
    reach = Reach(status, told.tell, lambda: now)
    reach.failed("head", Unanswered("no answer"))
    reach.failed("checkpoints", Unanswered("no answer either"))
    reach.risk("disk", "the disk is nearly full")
    reach.risk("disk", "the disk is full")
    reach.works("head")
    reach.works("checkpoints")
    now = 160.0
    assert (status.at_risk, status.store_error) == ("the disk is full", "")
    reach.no_risk("disk")
    reach.no_risk("disk")
    assert list(told) == [
        ("at_risk", {"reason": "store", "why": "no answer"}),
        ("at_risk", {"reason": "disk", "why": "the disk is nearly full"}),
        ("not_at_risk", {"after_s": 60.0}),
    ]
    assert (status.at_risk, status.at_risk_since) == ("", None)


def test_refused_credentials_are_a_reason_of_their_own(told: Told, status: Status) -> None:
    reach = Reach(status, told.tell)
    reach.failed("head", Denied("expired"))
    assert told.of("at_risk") == [{"reason": "credentials", "why": "expired"}]
    assert status.store_error == "expired"


def test_a_reason_that_comes_and_goes_beside_another_is_not_told_again_and_again(told: Told, status: Status) -> None:
    reach = Reach(status, told.tell)
    reach.risk("disk", "full")
    for _ in range(5):
        reach.failed("head", "no answer")
        reach.works("head")
    assert [fields["reason"] for fields in told.of("at_risk")] == ["disk", "store"]


def test_the_beat_carries_all_reasons_and_their_age(
    told: Told, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach = Reach(status, told.tell, lambda: 100.0)
    reach.failed("head", "no answer")
    reach.risk("disk", "the disk is full")
    monkeypatch.setattr("vl_agent.status.time.monotonic", lambda: 820.0)
    beat = decode(Beat, encode(status.beat()))
    assert (beat.at_risk, beat.at_risk_s, beat.store_error) == ("no answer; the disk is full", 720.0, "no answer")


def test_vl_agent_status_says_it_with_its_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vl_agent import cli

    monkeypatch.setenv("VL_HOME", str(tmp_path))
    folder = paths.launch_folder("char", 0)
    folder.make()
    beat = Beat(5, 0, 3, "training", step=7, at_risk="the disk is full", at_risk_s=720.0)
    paths.replace_file(folder.beat, encode(beat))
    assert cli.main(["status"]) == run.FINISHED
    assert "AT RISK 12m: the disk is full" in capsys.readouterr().out
    assert cli.main(["status", "--json"]) == run.FINISHED
    assert json.loads(capsys.readouterr().out)[0]["at_risk"] == "the disk is full"
