"""EC2's, Google's and Azure's notices, each heard from a service that speaks as theirs does, and as theirs fails."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from vl_agent import direct
from vl_agent import notices as sources
from vl_agent.notices import Notice, aws, azure, gcp

from tests.agent.metadata import FAULTS, Azure, Ec2, Fault, Google, Heard, Metadata, serving, watching
from tests.agent.protected import until

ACTION = "/latest/meta-data/spot/instance-action"
PREEMPTED = "/computeMetadata/v1/instance/preempted"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL_NOTICE_POLL_S", "0.2")
    monkeypatch.setattr(azure, "POLL_S", 0.1)
    monkeypatch.setattr(gcp, "_MOST_PAUSE_S", 0.5)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # the address is the machine itself: never through a proxy
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """No patience with a service that does not answer."""
    original = direct.ask

    async def ask(*words: Any, timeout_s: float = 2.0, **more: Any) -> direct.Reply:
        return await original(*words, timeout_s=min(timeout_s, 0.5), **more)

    monkeypatch.setattr(direct, "ask", ask)


# ------------------------------------------------------------------------------------------------------------- EC2


async def test_a_spot_notice_is_heard_once_with_its_moment() -> None:
    heard, imds = Heard(), Ec2()
    with serving(imds):
        async with watching(aws.watch(imds.url, heard)) as task:
            await until(lambda: imds.count("GET", ACTION) > 1)
            assert heard.notices == []
            imds.action = json.dumps({"action": "terminate", "time": "2026-11-24T02:18:22Z"})
            await until(task.done)
    assert heard.notices == [Notice("aws", 1795486702.0, "spot instance-action terminate")], "also a moment gone by"
    assert imds.count("PUT", "/latest/api/token") == 1, "one token serves many looks"
    assert heard.others == []


async def test_a_rebalance_recommendation_is_advice_told_once_and_the_notice_still_comes() -> None:
    heard, imds = Heard(), Ec2()
    imds.rebalance = json.dumps({"noticeTime": "2026-11-24T02:18:22Z"})
    with serving(imds):
        async with watching(aws.watch(imds.url, heard)):
            await until(lambda: imds.count("GET", ACTION) > 2)
            assert heard.of("advice") == ["rebalance recommendation: EC2 may take this box"]
            assert heard.notices == []
            imds.notice("stop", 120)
            await until(lambda: heard.notices)
    assert heard.notices[0].detail == "spot instance-action stop"
    assert 100 < (heard.notices[0].deadline or 0) - time.time() < 125


async def test_hibernation_leaves_no_time() -> None:
    heard, imds = Heard(), Ec2()
    imds.notice("hibernate", 120)
    with serving(imds):
        async with watching(aws.watch(imds.url, heard)):
            await until(lambda: heard.notices)
    assert (heard.notices[0].deadline or 0) <= time.time()


async def test_a_token_that_has_ended_is_asked_for_again() -> None:
    heard, imds = Heard(), Ec2()
    with serving(imds):
        async with watching(aws.watch(imds.url, heard)):
            await until(lambda: imds.count("GET", ACTION) > 1)
            imds.tokens.clear()
            imds.notice("terminate", 120)
            await until(lambda: heard.notices)
    assert imds.count("PUT", "/latest/api/token") == 2


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"terminate"', "x" * 90000])
async def test_an_answer_that_is_none_is_no_notice(body: str) -> None:
    heard, imds = Heard(), Ec2()
    imds.action = body
    with serving(imds):
        async with watching(aws.watch(imds.url, heard)):
            await until(lambda: imds.count("GET", ACTION) > 1)
            assert heard.notices == []
            imds.action = '{"action": "stop", "time": "soon"}'
            await until(lambda: heard.notices)
    assert heard.notices == [Notice("aws", None, "spot instance-action stop")], "a notice, though its moment is none"


async def test_a_token_that_never_comes_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, short: None) -> None:
    monkeypatch.setattr(sources, "DEAF_S", 0.5)
    heard, imds = Heard(), Ec2()
    imds.hop_limit = True
    with serving(imds):
        async with watching(aws.watch(imds.url, heard)):
            await until(lambda: heard.of("trouble"))
            assert "HttpPutResponseHopLimit to 2" in heard.of("trouble")[0]
            imds.hop_limit = False
            imds.notice("terminate", 120)
            await until(lambda: heard.notices)
    assert len(heard.of("trouble")) == 1


async def test_a_service_that_gives_no_token_is_asked_again() -> None:
    heard, imds = Heard(), Ec2()
    imds.gives_tokens = False
    imds.notice("terminate", 120)
    with serving(imds):
        async with watching(aws.watch(imds.url, heard)):
            await until(lambda: imds.count("PUT", "/latest/api/token") > 1)
            assert heard.notices == []
            imds.gives_tokens = True
            await until(lambda: heard.notices)


# ---------------------------------------------------------------------------------------------------- every cloud


def _watch(kind: str, service: Metadata, heard: Heard) -> Any:
    if kind == "aws":
        return aws.watch(service.url, heard)
    if kind == "gcp":
        return gcp.watch(service.url, heard, 30.0)
    return azure.watch(service.url, heard, azure.Acknowledgement())


def _service(kind: str, *, noticed: bool) -> Metadata:
    if kind == "aws":
        ec2 = Ec2()
        ec2.tokens = {"<html>log in first</html>", ""}  # a place that redirects lead to takes any token
        if noticed:
            ec2.notice("terminate", 120)
        return ec2
    if kind == "gcp":
        google = Google()
        if noticed:
            google.set("preempted", "TRUE")
        return google
    azure_service = Azure()
    if noticed:
        azure_service.schedule("Preempt", 30)
    return azure_service


@pytest.mark.parametrize("kind", ["aws", "gcp", "azure"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_service_that_fails_gives_no_notice_and_is_asked_until_it_works(
    kind: str, fault: Fault, short: None
) -> None:
    """A redirect leads to a service with a notice: it is not followed."""
    heard, service, other = Heard(), _service(kind, noticed=True), _service(kind, noticed=True)
    service.fault = fault
    with serving(service, other):
        async with watching(_watch(kind, service, heard)) as task:
            await until(lambda: len(service.asked) > 3)
            assert heard.notices == []
            assert other.asked == []
            assert not task.done()
            service.fault = ""
            await until(lambda: heard.notices)
    assert heard.notices[0].source == kind


@pytest.mark.parametrize("kind", ["aws", "gcp", "azure"])
async def test_a_service_that_is_silent_for_long_is_told_once(
    kind: str, monkeypatch: pytest.MonkeyPatch, short: None
) -> None:
    monkeypatch.setattr(sources, "DEAF_S", 0.3)
    heard, service = Heard(), _service(kind, noticed=False)
    service.fault = "500"
    with serving(service):
        async with watching(_watch(kind, service, heard)):
            await until(lambda: heard.of("trouble"))
            before = len(service.asked)
            await until(lambda: len(service.asked) > before + 2)
    assert [name for name, *_ in heard.others] in (["trouble"], ["trouble"] * 2), "once for each thing that is asked"


# ------------------------------------------------------------------------------------------------------------- GCP


async def test_gcps_flag_is_heard_by_one_request_that_hangs() -> None:
    heard, google = Heard(), Google()
    with serving(google):
        async with watching(gcp.watch(google.url, heard, 120.0)):
            await until(lambda: google.count("GET", PREEMPTED) == 2)
            assert "last_etag=0" in google.asked[0][1]
            google.set("preempted", "TRUE")
            await until(lambda: heard.notices)
    (notice,) = heard.notices
    assert (notice.source, notice.detail) == ("gcp", "preempted")
    assert 100 < (notice.deadline or 0) - time.time() <= 120
    assert google.count("GET", PREEMPTED) <= 3


async def test_a_request_that_is_dropped_is_asked_from_the_beginning() -> None:
    heard, google = Heard(), Google()
    with serving(google):
        async with watching(gcp.watch(google.url, heard, 30.0)):
            await until(lambda: google.count("GET", PREEMPTED) == 2)
            google.drop()
            await until(lambda: sum("last_etag=0" in path for _, path in google.asked) > 2)
            google.set("preempted", "TRUE")
            await until(lambda: heard.notices)


async def test_a_reply_without_googles_header_is_another_machines(short: None) -> None:
    heard, google = Heard(), Google()
    google.set("preempted", "TRUE")
    google.fault = "unflavoured"
    with serving(google):
        async with watching(gcp.watch(google.url, heard, 30.0)):
            await until(lambda: google.count("GET", PREEMPTED) > 1)
            assert heard.notices == []


async def test_a_service_that_does_not_hang_is_not_asked_in_circles() -> None:
    heard, google = Heard(), Google()
    google.hangs = False
    with serving(google):
        async with watching(gcp.watch(google.url, heard, 30.0)):
            await until(lambda: google.count("GET", PREEMPTED) > 2)
            began, before = time.monotonic(), google.count("GET", PREEMPTED)
            await until(lambda: google.count("GET", PREEMPTED) > before + 1)
            assert time.monotonic() - began > 0.9


async def test_maintenance_that_ends_the_box_is_a_notice_and_one_that_moves_it_is_advice() -> None:
    heard, google = Heard(), Google()
    with serving(google):
        async with watching(gcp.watch(google.url, heard, 30.0)):
            google.set("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
            await until(lambda: heard.of("advice"))
            assert heard.notices == []
            google.set("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
            await until(lambda: heard.notices)
            assert 30 < (heard.notices[0].deadline or 0) - time.time() <= 60
            google.set("maintenance-event", "NONE")
            await until(lambda: heard.of("withdrawn"))


# ----------------------------------------------------------------------------------------------------------- Azure


@pytest.mark.parametrize(("kind", "in_s"), [("Preempt", 30), ("Terminate", 300), ("Reboot", 900), ("Redeploy", 600)])
async def test_an_event_that_ends_the_box_is_a_notice(kind: str, in_s: float) -> None:
    heard, service = Heard(), Azure()
    with serving(service):
        async with watching(azure.watch(service.url, heard, azure.Acknowledgement())):
            service.schedule(kind, in_s)
            await until(lambda: heard.notices)
            asked = len(service.asked)
            await until(lambda: len(service.asked) > asked + 2)
    (notice,) = heard.notices
    assert notice.detail == f"scheduled event {kind}"
    assert in_s - 20 < (notice.deadline or 0) - time.time() <= in_s + 1


async def test_what_has_started_leaves_no_time() -> None:
    heard, service = Heard(), Azure()
    service.schedule("Reboot", None)
    with serving(service):
        async with watching(azure.watch(service.url, heard, azure.Acknowledgement())):
            await until(lambda: heard.notices)
    assert (heard.notices[0].deadline or 0) <= time.time()


async def test_a_freeze_ends_nothing_and_another_machines_event_is_not_ours() -> None:
    heard, service = Heard(), Azure()
    with serving(service):
        async with watching(azure.watch(service.url, heard, azure.Acknowledgement())):
            service.schedule("Preempt", 30, "vm-1")
            before = len(service.asked)
            await until(lambda: len(service.asked) > before + 2)
            service.schedule("Freeze", 900, id="two")
            await until(lambda: heard.of("advice"))
    assert heard.notices == []


async def test_an_event_that_vanishes_is_withdrawn() -> None:
    heard, service = Heard(), Azure()
    with serving(service):
        async with watching(azure.watch(service.url, heard, azure.Acknowledgement())):
            service.schedule("Preempt", 30)
            await until(lambda: heard.notices)
            service.events = []
            await until(lambda: heard.of("withdrawn"))
            service.schedule("Preempt", 30, id="three")
            await until(lambda: len(heard.notices) == 2)


async def test_the_first_answer_may_take_its_time() -> None:
    heard, service = Heard(), Azure()
    service.first_s = 6.0  # longer than any later one is waited for
    service.schedule("Preempt", 30)
    with serving(service):
        async with watching(azure.watch(service.url, heard, azure.Acknowledgement())):
            await until(lambda: heard.notices)
    assert service.count("GET", azure.EVENTS) == 1


async def test_an_event_is_acknowledged_only_once_the_save_is_durable() -> None:
    heard, service, acknowledgement = Heard(), Azure(), azure.Acknowledgement()
    with serving(service):
        async with watching(azure.watch(service.url, heard, acknowledgement)):
            service.schedule("Preempt", 30)
            await until(lambda: heard.notices and acknowledgement.wanted)
            before = len(service.asked)
            await until(lambda: len(service.asked) > before + 2)
            assert service.started == []
            acknowledgement.durable.set()
            await until(acknowledgement.sent.is_set)
    assert service.started == ["602d9444"]
    assert json.loads(service.bodies[-1] or service.bodies[-2]) == {"StartRequests": [{"EventId": "602d9444"}]}


async def test_an_event_of_several_machines_is_never_acknowledged() -> None:
    heard, service, acknowledgement = Heard(), Azure(), azure.Acknowledgement()
    acknowledgement.durable.set()
    service.schedule("Preempt", 30, "vm-0", "vm-1")
    with serving(service):
        async with watching(azure.watch(service.url, heard, acknowledgement)):
            await until(lambda: heard.notices)
            before = len(service.asked)
            await until(lambda: len(service.asked) > before + 3)
    assert service.started == []
    assert not acknowledgement.wanted
