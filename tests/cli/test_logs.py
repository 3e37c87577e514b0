"""What `vl-tui logs` makes of a log's bytes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import zstandard
from vl_agent import head, protocol
from vl_agent.store import Store, open_store

from vl_tui.commands import logs


def test_bytes_from_two_sources_are_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    printer = logs.Printer()
    printer.feed(1, 0, b"step 1\nste")
    printer.feed(1, 0, b"step 1\nstep 2\n")
    printer.feed(1, 7, b"step 2\nstep 3\n")
    printer.feed(1, 7, b"step 2\n")
    assert capsys.readouterr().out == "--- attempt 1 ---\nstep 1\nstep 2\nstep 3\n"


def test_a_character_cut_in_two_comes_out_whole(capsys: pytest.CaptureFixture[str]) -> None:
    printer = logs.Printer()
    raw = "größe\n".encode()
    for at in range(len(raw)):
        printer.feed(1, at, raw[at : at + 1])
    assert capsys.readouterr().out.endswith("größe\n")


def test_a_gap_and_a_new_attempt_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    printer = logs.Printer()
    printer.feed(1, 0, b"a\n")
    printer.feed(1, 10, b"b\nhalf")
    printer.feed(2, 0, b"c\n")
    printer.feed(1, 16, b"late\n")
    out = capsys.readouterr().out
    assert "[8 bytes of this log never reached the store]" in out
    assert out.endswith("b\nhalf\n--- attempt 2 ---\nc\n")


def test_a_progress_bar_is_one_line_as_it_stood_last(capsys: pytest.CaptureFixture[str]) -> None:
    logs.Printer().feed(1, 0, b"10%\r50%\r100%\r\ndone\r\n")
    assert capsys.readouterr().out == "--- attempt 1 ---\n100%\ndone\n"


def test_nothing_a_box_prints_drives_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Invariant 9, on the way of the log to stdout."""
    hostile = b"\x1b]52;c;cm0gLXJmIC8=\x07\x1b[2J\x9b31m\xc2\x9b31m\x1bP+q\x1b\\plain\x00\x08\x7f\xe2\x80\xae\n"
    logs.Printer().feed(1, 0, hostile)
    out = capsys.readouterr().out.removeprefix("--- attempt 1 ---\n").removesuffix("\n")
    assert "plain" in out
    assert out.isprintable(), ascii(out)


async def put_range(store: Store, epoch: int, offset: int, body: bytes) -> None:
    await store.put(protocol.log_key("a", epoch, "log", offset), zstandard.ZstdCompressor().compress(body))


async def test_the_store_holds_every_attempts_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(f"file://{tmp_path}")
    spec = protocol.RunSpec("a", "mine", "true", protocol.CheckpointPolicy("ckpt"))
    await head.submit(store, spec)
    await put_range(store, 1, 0, b"one\n")
    await put_range(store, 1, 4, b"two\n")
    await put_range(store, 2, 0, b"three\n")
    assert await logs._logs(store, "a", follow=False) == 0
    assert capsys.readouterr().out == "--- attempt 1 ---\none\ntwo\n--- attempt 2 ---\nthree\n"


async def test_following_ends_with_the_run_and_misses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(f"file://{tmp_path}")
    spec = protocol.RunSpec("a", "mine", "true", protocol.CheckpointPolicy("ckpt"))
    await head.submit(store, spec)
    following = asyncio.create_task(logs._logs(store, "a", follow=True))
    for number in range(3):
        await put_range(store, 1, 2 * number, b"%d\n" % number)
        await asyncio.sleep(0.01)
    await head.end(store, "a", generation=0, state="stopped", detail="")
    assert await asyncio.wait_for(following, 20) == 0
    assert capsys.readouterr().out == "--- attempt 1 ---\n0\n1\n2\n"
