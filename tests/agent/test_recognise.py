"""A box knows where it is: from its marker, its environment, its machine, or from who answers at the link-local
address; and listens to what may come there."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from vl_agent import notices as sources
from vl_agent import recognise
from vl_agent.notices import command, signals, slurm
from vl_agent.notices.watches import Watches
from vl_agent.recognise import Place

from tests.agent.metadata import Azure, Ec2, Google, Heard, Metadata, Oracle, serving, watching
from tests.agent.protected import is_alive, until

RUNPOD = {"RUNPOD_POD_ID": "7h9k2m4n6p", "RUNPOD_API_KEY": "pod-scoped", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
VAST = {"CONTAINER_ID": "1234568", "VAST_CONTAINERLABEL": "C.1234568", "CONTAINER_API_KEY": "per-instance"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "vl-r1-e1"}
EC2 = {"sys_vendor": "Amazon EC2", "board_asset_tag": "i-0123456789abcdef0"}
GCE = {"product_name": "Google Compute Engine"}
AZURE = {"sys_vendor": "Microsoft Corporation", "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"}
OCI = {"chassis_asset_tag": "OracleCloud.com"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("sys/class/dmi/id", "proc/1", "etc/vl-agent"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def dmi(root: Path, strings: dict[str, str]) -> None:
    for name, value in strings.items():
        (root / "sys/class/dmi/id" / name).write_text(value + "\n")


def marker(root: Path, **fields: Any) -> Path:
    path = root / "etc/vl-agent/box.json"
    path.write_text(json.dumps({"provider": "nebius", **fields}))
    path.chmod(0o644)
    return path


@pytest.mark.parametrize(
    ("environ", "strings", "found"),
    [
        (RUNPOD, {}, ("runpod", "7h9k2m4n6p", ("signal",), 5.0)),
        (VAST, {}, ("vast", "1234568", ("signal",), 0.0)),
        (SLURM, {}, ("slurm", "7", ("signal", "slurm"), 30.0)),
        (KUBERNETES, {}, ("kubernetes", "", ("signal",), 30.0)),
        (KUBERNETES, GCE, ("gke", "", ("signal", "gcp"), 15.0)),
        (SLURM, EC2, ("slurm", "7", ("signal", "slurm", "aws"), 30.0)),
        ({}, EC2, ("aws", "i-0123456789abcdef0", ("signal", "aws"), None)),
        ({}, GCE, ("gcp", "", ("signal", "gcp"), 30.0)),
        ({}, AZURE, ("azure", "", ("signal", "azure"), None)),
        ({}, OCI, ("oci", "", ("signal",), None)),
        ({}, {"sys_vendor": "QEMU", "product_name": "Standard PC"}, ("", "", ("signal",), None)),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://x"}, {}, ("aws", "", ("signal", "aws"), None)),
    ],
)
def test_a_box_is_recognised_by_environment_then_by_machine(
    root: Path, environ: dict[str, str], strings: dict[str, str], found: tuple[str, str, tuple[str, ...], float | None]
) -> None:
    dmi(root, strings)
    place = recognise.here(environ, root)
    assert (place.provider, place.box, place.notices, place.signal_window_s) == found


def test_what_a_session_lacks_is_read_from_process_1_and_our_own_goes_before_it(root: Path) -> None:
    first = b"\0".join(f"{name}={value}".encode() for name, value in {**VAST, "PATH": "/bin"}.items())
    (root / "proc/1/environ").write_bytes(first)
    assert recognise.here({}, root).provider == "vast"
    assert recognise.environment({"CONTAINER_API_KEY": "own"}, root)["CONTAINER_API_KEY"] == "own"
    assert "PATH" not in recognise.environment({}, root)


def test_a_marker_goes_before_all_else_and_says_what_only_its_writer_knows(root: Path) -> None:
    dmi(root, GCE)
    marker(root, box="nb-1", window_s=60, end="none")
    place = recognise.here(RUNPOD, root)
    assert place == Place("nebius", "marker", "nb-1", ("signal",), 60, "none")
    marker(root, provider="gcp", window_s=120, notices=["gcp"])
    assert (recognise.here({}, root).notices, recognise.here({}, root).window_s) == (("gcp",), 120)
    assert recognise.here({}, root).signal_window_s == 30.0, "the shutdown itself leaves no more than ever"


@pytest.mark.parametrize("broken", ["not JSON", "[]", '{"provider": 7}', '{"provider": "aws", "end": "explode"}'])
def test_a_marker_that_is_none_is_passed_over(root: Path, broken: str) -> None:
    dmi(root, GCE)
    marker(root).write_text(broken)
    assert recognise.here({}, root).provider == "gcp"


@pytest.mark.parametrize("mode", [0o666, 0o664])
def test_a_marker_that_others_may_write_is_not_believed(root: Path, mode: int) -> None:
    marker(root, command=["sh", "-c", "anything"], end="command").chmod(mode)
    assert recognise.here({}, root) == Place()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to somebody else")
def test_a_marker_of_another_user_is_not_believed(root: Path) -> None:
    os.chown(marker(root), 12345, 12345)
    assert recognise.here({}, root) == Place()


@pytest.mark.parametrize(("service", "provider"), [(Ec2, "aws"), (Google, "gcp"), (Azure, "azure"), (Oracle, "oci")])
async def test_one_request_tells_four_clouds_apart(
    service: type[Metadata], provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = service()
    with serving(one):
        monkeypatch.setenv("VL_METADATA_ENDPOINT", one.url)
        place = await recognise.by_metadata()
    assert place is not None
    assert (place.provider, place.how) == (provider, "metadata")
    assert len(one.asked) == 1


@pytest.mark.parametrize("fault", ["slow", "reset", "redirect", "html", "500"])
async def test_what_answers_otherwise_is_no_cloud(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Oracle(), Oracle()
    one.fault = fault
    with serving(one, other):
        monkeypatch.setenv("VL_METADATA_ENDPOINT", one.url)
        assert await recognise.by_metadata() is None
        assert other.asked == []
    monkeypatch.setenv("VL_METADATA_ENDPOINT", "")
    assert await recognise.by_metadata() is None


# --------------------------------------------------------------------------------------------- all sources of a box


async def test_a_box_that_nothing_tells_about_is_looked_up_and_then_listened_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", raising=False)
    monkeypatch.setenv("VL_NOTICE_POLL_S", "0.2")
    heard, imds = Heard(), Ec2()
    imds.notice("terminate", 120)
    with serving(imds):
        monkeypatch.setenv("VL_METADATA_ENDPOINT", imds.url)
        watches = Watches(("auto",), heard, Place(), ask=True)
        try:
            await until(lambda: heard.notices)
            assert watches.place.provider == "aws"
            assert watches.names == ["signal", "aws"]
        finally:
            await watches.close()


async def test_a_chosen_source_is_the_only_one_beside_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    watches = Watches(("command:true", "sundial"), heard, Place("aws", notices=("signal", "aws")), ask=True)
    try:
        assert watches.names == ["signal", "command:true"]
        await until(lambda: heard.notices)
    finally:
        await watches.close()
    assert heard.notices[0].detail == "exit status 0"
    assert heard.others == [("trouble", "sundial", "no such source of notices")]


# ---------------------------------------------------------------------------------------------------------- signals


async def signalled(place: Place, *numbers: int) -> Heard:
    heard = Heard()
    watches = Watches(("auto",), heard, place, ask=False)
    try:
        for number in numbers:
            os.kill(os.getpid(), number)
        await until(lambda: heard.notices)
    finally:
        await watches.close()
    return heard


@pytest.mark.parametrize(
    ("provider", "left_s"), [("kubernetes", 30.0), ("gke", 15.0), ("runpod", 5.0), ("nebius", 60.0), ("slurm", 30.0)]
)
async def test_sigterm_is_a_notice_with_what_the_provider_leaves(provider: str, left_s: float) -> None:
    notice = (await signalled(Place(provider), signal.SIGTERM)).notices[0]
    assert (notice.source, notice.detail) == (provider, "SIGTERM")
    assert left_s - 3 < (notice.deadline or 0) - time.time() <= left_s


async def test_elsewhere_nobody_knows_what_sigterm_leaves() -> None:
    heard = await signalled(Place("verda"), signal.SIGTERM)
    assert [(one.source, one.deadline) for one in heard.notices] == [("signal", None)]


async def test_slurm_also_sends_the_users_signal_and_its_sigcont_means_nothing() -> None:
    place = Place("slurm", notices=("signal", "slurm"))
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        heard = await signalled(place, signal.SIGCONT, number)
        assert [(one.source, one.detail) for one in heard.notices] == [("slurm", number.name)]
    assert len((await signalled(place, signal.SIGTERM, signal.SIGCONT)).notices) == 1


def test_a_users_signal_leaves_what_the_time_limit_leaves_where_that_is_near() -> None:
    assert slurm.user_window_s({}) == slurm.USER_SIGNAL_S
    assert 100 < slurm.user_window_s({"SLURM_JOB_END_TIME": str(int(time.time()) + 120)}) <= 120
    assert slurm.user_window_s({"SLURM_JOB_END_TIME": str(int(time.time()) + 86400)}) == slurm.USER_SIGNAL_S
    assert not slurm.restarted({})
    assert not slurm.restarted({"SLURM_RESTART_COUNT": "0"})
    assert slurm.restarted({"SLURM_RESTART_COUNT": "1"})


async def test_a_signal_after_the_watch_is_over_is_not_heard() -> None:
    heard = Heard()
    stop = signals.listen(heard, "signal", (signal.SIGUSR1,), lambda: None)
    stop()
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard.notices == []


# ---------------------------------------------------------------------------------------------------- any program


@pytest.mark.parametrize(
    ("words", "deadline", "detail"),
    [
        ("true", None, "exit status 0"),
        ("sh -c 'echo; echo soon; sleep 60'", None, "soon"),
        ("echo '{\"deadline\": 1795486702.5}'", 1795486702.5, '{"deadline": 1795486702.5}'),
        ('echo \'{"deadline": "soon"}\'', None, '{"deadline": "soon"}'),
        ("echo '{\"deadline\": true}'", None, '{"deadline": true}'),
        ("sh -c 'head -c 100000 /dev/zero | tr \"\\000\" x; echo'", None, "said a long line"),
    ],
)
async def test_any_program_says_by_its_exit_or_a_line_that_the_box_goes(
    words: str, deadline: float | None, detail: str
) -> None:
    heard = Heard()
    async with watching(command.watch(words, heard, again_s=0.1)) as task:
        await until(task.done)
    (notice,) = heard.notices
    assert (notice.source, notice.deadline, notice.detail) == ("command", deadline, detail)


async def test_a_program_that_fails_or_does_not_end_is_run_again_with_all_that_it_started_ended(
    tmp_path: Path,
) -> None:
    script = tmp_path / "watch.sh"
    script.write_text("trap '' TERM; sleep 600 & echo $! >> $0.children; [ -e $0.fail ] && exit 1; wait\n")
    heard = Heard()
    async with watching(command.watch(f"sh {script}", heard, timeout_s=0.3, again_s=0.1)):
        children = tmp_path / "watch.sh.children"
        await until(lambda: children.exists() and len(children.read_text().split()) > 1)
        (tmp_path / "watch.sh.fail").touch()
        already = len(children.read_text().split())
        await until(lambda: len(children.read_text().split()) > already + 1)
    for pid in children.read_text().split():
        await until(lambda pid=int(pid): not is_alive(pid))
    assert heard.notices == []


async def test_a_program_that_is_not_there_is_told_as_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DEAF_S", 0.2)
    heard = Heard()
    async with watching(command.watch("/no/such/program --now", heard, again_s=0.1)):
        await until(lambda: heard.of("trouble"))
    assert heard.of("trouble")[0].startswith("/no/such/program --now: No such file")
