"""The channel to a box, against a real sshd and the real agent: what drops it, and what a drop must not do."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from vl_agent import protocol
from vl_agent.protocol import Frame, FrameParser, Hello, encode

from tests.ssh.box import Box, Listener, until
from vl_tui.ssh import link as links
from vl_tui.ssh.connection import LinkLost, SshError, Unreachable, connect
from vl_tui.ssh.install import install_agent
from vl_tui.ssh.link import BoxLink


async def running(box: Box, listener: Listener) -> BoxLink:
    """A link to the box, whose training has begun to talk."""
    await box.submit()
    link = box.link(listener)
    box.begin(link)
    await box.start(link, listener)
    await until(lambda: listener.streams.get((1, "log")), "the first of the log")
    return link


async def whole(box: Box, listener: Listener) -> None:
    """Let the training end, and see that all of it has come, byte for byte."""
    box.enough()
    await until(lambda: listener.phase() == "ended" and b'"kind":"ended"' in box.written("journal"), "the end")
    for stream in ("journal", "log"):
        size = len(box.written(stream))
        assert size > 1000
        await until(lambda stream=stream, size=size: len(listener.streams[1, stream]) >= size, f"all of the {stream}")
        assert listener.streams[1, stream] == box.written(stream)
    assert listener.wrong == []


async def test_log_and_journal_come_whole_over_every_kind_of_drop(box: Box, short_silence: None) -> None:
    listener = Listener()
    link = await running(box, listener)
    drops: list[Callable[[], None]] = [
        box.sshd.kill_sessions, box.relay.reset, box.relay.drop, box.relay.cut, box.relay.reset,
        lambda: [os.kill(pid, signal.SIGKILL) for pid in box.processes("attach")] and None,
    ]  # fmt: skip
    for drop in drops:
        times, held, drops_seen = listener.attached(), len(listener.streams[1, "log"]), listener.drops()
        drop()
        await until(lambda seen=drops_seen: listener.drops() > seen, "the drop is seen", 20)
        box.relay.heal()
        await until(lambda times=times: listener.attached() > times, "up again", 30)
        await until(lambda held=held: len(listener.streams[1, "log"]) > held, "the log goes on")
    assert all(words for name, words in listener.states if name == "down")
    assert (await link.command(command="notice", epoch=7))["ok"] is False  # the channel is a whole one
    supervisors = box.processes("supervise")
    assert len(supervisors) == 1, "one supervisor all the time"
    await whole(box, listener)


async def test_a_link_torn_in_the_middle_of_what_it_says_goes_on_from_there(box: Box) -> None:
    listener = Listener()
    await running(box, listener)
    for torn_after in (1_500, 5_000, 9_000):  # in the middle of a handshake, of a question, of acknowledgements
        times = listener.attached()
        box.relay.budget = torn_after
        box.relay.reset()
        await until(lambda: box.relay.budget == 0, "the link tears")
        box.relay.budget = None
        await until(lambda times=times: listener.attached() > times, "up again", 30)
    await whole(box, listener)


async def test_who_holds_a_part_already_gets_the_rest(box: Box) -> None:
    first = Listener()
    await running(box, first)
    await until(lambda: len(first.streams[1, "log"]) > 100_000, "a part of the log")
    held = {stream: bytes(first.streams[1, stream]) for stream in ("journal", "log")}
    again = Listener()
    again.streams = {(1, stream): bytearray(part) for stream, part in held.items()}
    link = box.link(again, supervise=False, epoch=1, have={stream: len(part) for stream, part in held.items()})
    box.begin(link)
    await whole(box, again)


async def test_a_refused_login_is_asked_a_few_times_then_told(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "REFUSALS", 2)
    (box.sshd.folder / "authorized").write_text("")
    listener = Listener()
    await asyncio.wait_for(box.begin(box.link(listener)), 30)
    assert [name for name, _ in listener.states] == ["down", "connecting", "refused"]
    assert "authorized_keys" in listener.states[-1][1]


async def test_a_changed_host_key_in_mid_run_ends_the_link_at_once(box: Box) -> None:
    listener = Listener()
    await box.submit()
    task = box.begin(box.link(listener))
    await until(lambda: listener.name == "attached", "attached")
    box.sshd.stop()
    box.sshd.new_host_key("ssh-ed25519")
    box.sshd.start()
    await asyncio.wait_for(task, 30)
    name, words = listener.states[-1]
    assert name == "refused"
    assert "has changed" in words
    assert str(box.pins.path("box-1")) in words
    assert box.processes("attach") == []


async def test_commands_are_answered_and_a_drop_is_never_a_no(box: Box, short_silence: None) -> None:
    listener = Listener()
    await box.submit()
    link = box.link(listener)
    with pytest.raises(Unreachable, match="no channel"):
        await link.command(command="end")
    task = box.begin(link)
    await until(lambda: listener.phase() == "prepared", "prepared")
    refused = await link.command(command="stop", epoch=3)
    assert (refused["ok"], refused["detail"]) == (False, "that is epoch 3, this box is at 0")
    box.relay.cut()
    with pytest.raises(LinkLost, match="dropped"):
        await link.command(command="end")
    await until(lambda: listener.name == "down", "down")
    with pytest.raises(SshError):  # not sent, or not answered: never a reply
        await link.command(command="end")
    box.relay.heal()
    await until(lambda: listener.name == "attached", "attached")
    assert (await link.command(command="end"))["ok"] is True
    assert not task.done()


async def test_a_supervisor_killed_before_its_answer_has_not_said_no(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "COMMAND_S", 2.0)
    listener = Listener()
    await box.submit()
    link = box.link(listener)
    box.begin(link)
    await until(lambda: listener.phase() == "prepared", "prepared")
    (supervisor,) = box.processes("supervise")
    os.kill(supervisor, signal.SIGSTOP)
    (attach,) = box.processes("attach")
    before = sockets(attach)
    asked = asyncio.create_task(link.command(command="end"))
    await until(lambda: sockets(attach) > before, "the command is on its way to it")
    os.kill(supervisor, signal.SIGKILL)
    with pytest.raises(LinkLost, match="did not answer"):
        await asked
    refused = await link.command(command="end")  # now there is none to hear it, and that is a plain no
    assert refused == {"ok": False, "detail": "no supervisor answers on this box"}


async def test_cancelling_leaves_no_task_and_no_process(box: Box) -> None:
    before = asyncio.all_tasks()
    listener = Listener()
    await box.submit()
    link = box.link(listener)
    task = asyncio.create_task(link.run())
    await until(lambda: listener.phase() == "prepared", "prepared")
    asked = asyncio.create_task(link.command(command="nothing"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.gather(asked, return_exceptions=True)
    await until(lambda: not box.processes("attach") and not box.sshd.sessions(), "nothing of it on the box")
    assert len(box.processes("supervise")) == 1  # it lives on: that is what it is for

    def left() -> set[asyncio.Task[object]]:
        return {one for one in asyncio.all_tasks() - before if "Relay" not in repr(one.get_coro())}

    await until(lambda: not left(), f"no task left: {left()}")


@pytest.mark.parametrize("after", ["connecting", "installing"])
async def test_cancelling_before_it_is_up_leaves_nothing_either(box: Box, after: str) -> None:
    before = asyncio.all_tasks()
    listener = Listener()
    await box.submit()
    if after == "connecting":
        box.relay.cut()
    task = asyncio.create_task(box.link(listener).run())
    if after == "connecting":
        await until(lambda: box.relay.clients, "it dials")
    else:
        await until(lambda: listener.name == after, after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    box.relay.heal()
    await until(lambda: not box.sshd.sessions(), "no session on the box")
    await until(
        lambda: not {one for one in asyncio.all_tasks() - before if "Relay" not in repr(one.get_coro())}, "no task"
    )


async def test_who_takes_nothing_in_gets_no_more_than_the_credit_and_still_the_beat(box: Box) -> None:
    listener = Listener()
    await running(box, listener)
    await until(lambda: len(box.written("log")) > 3 * protocol.CREDIT, "a long log")
    conn = await connect(box.sshd.address(), box_id="box-1", pins=box.pins)
    install = await install_agent(conn, cache=box.cache)
    came = {protocol.STREAM_JOURNAL: 0, protocol.STREAM_LOG: 0}
    beats: list[float] = []
    parser, raw = FrameParser(), bytearray()

    def receive(chunk: bytes) -> None:
        raw.extend(chunk)
        start = raw.find(protocol.PREAMBLE)
        end = raw.find(b"\n", start + len(protocol.PREAMBLE)) if start >= 0 else -1
        if end < 0:
            return
        frames = parser.feed(bytes(raw[end + 1 + receive.fed :]))  # type: ignore[attr-defined]
        receive.fed = len(raw) - end - 1  # type: ignore[attr-defined]
        for frame in frames:
            if frame.type == protocol.FRAME_DATA:
                came[frame.stream] += len(frame.payload)
            elif frame.type == protocol.FRAME_BEAT:
                beats.append(time.monotonic())

    receive.fed = 0  # type: ignore[attr-defined]
    others = set(box.processes("attach"))
    channel = await conn.open(install.command(["attach", "--run", box.run, "--launch", "1"]), receive)
    hello = Hello(1, 1, "test", "", box.run, 1, 1, {"log": 0})
    channel.write(Frame(protocol.FRAME_HELLO, payload=encode(hello)).encode())
    await until(lambda: len(beats) >= 2, "beats")
    (attach,) = set(box.processes("attach")) - others
    small, long = resident(attach), len(box.written("log"))
    await until(lambda: len(beats) >= 5 and len(box.written("log")) > long + (2 << 20), "beats while the log grows")
    assert protocol.CREDIT <= came[protocol.STREAM_LOG] < protocol.CREDIT + protocol.MAX_PAYLOAD
    assert resident(attach) - small < 2 << 20
    held = came[protocol.STREAM_LOG]
    channel.write(Frame(protocol.FRAME_ACK, protocol.STREAM_LOG, held).encode())
    await until(lambda: came[protocol.STREAM_LOG] >= held + protocol.CREDIT, "the next of it")
    channel.abort()
    conn.abort()


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def sockets(pid: int) -> int:
    """How many sockets a process has open."""
    return sum(os.readlink(fd).startswith("socket:") for fd in Path(f"/proc/{pid}/fd").iterdir())
