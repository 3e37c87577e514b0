"""The open run's log: whole lines of every attempt, once, in bounded memory."""

from __future__ import annotations

import threading

import pytest

from vl_tui.app import log as logs
from vl_tui.app.log import LogStore


def lines(log: LogStore) -> list[str]:
    return [str(log.line(index)[0]) for index in range(len(log))]


def test_bytes_that_come_twice_are_shown_once() -> None:
    log = LogStore()
    log.add(1, 0, b"one\ntwo\n")
    log.add(1, 0, b"one\ntwo\nthree\n")
    log.add(1, 4, b"two\n")
    assert lines(log) == ["── attempt 1 ──", "one", "two", "three"]
    assert log.size(1) == 14


def test_a_line_in_pieces_is_one_line_and_its_beginning_is_shown_at_once() -> None:
    log = LogStore()
    log.add(1, 0, b"lo")
    assert lines(log)[-1] == "lo"
    log.add(1, 2, b"ss 2.5\n")
    assert lines(log) == ["── attempt 1 ──", "loss 2.5"]


def test_a_line_that_an_attempt_did_not_end_stands_before_the_next_attempt() -> None:
    log = LogStore()
    log.add(1, 0, b"done\nhalf a li")
    log.add(2, 0, b"anew\n")
    assert lines(log) == ["── attempt 1 ──", "done", "half a li", "── attempt 2 ──", "anew"]


def test_a_progress_bar_shows_its_last_state() -> None:
    log = LogStore()
    log.add(1, 0, b"\r 1%" * 9 + b"\r99%")
    assert lines(log)[-1] == "99%"


def test_what_a_box_prints_is_cleaned_and_a_heading_cannot_be_faked() -> None:
    log = LogStore()
    log.add(1, 0, b"a\x1b]52;c;eA==\x07b\n\x00attempt \x1b[2J\xff9\n")
    assert lines(log) == ["── attempt 1 ──", "ab", "attempt \ufffd9"]
    assert [log.line(index)[1] for index in range(3)] == ["faint", "text", "text"]


def test_old_lines_are_let_go_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_LINES", 1000)
    log = LogStore()
    for number in range(5000):
        log.add(1, number * 10, b"%09d\n" % number)
    assert 900 <= len(log) <= 1000
    assert len(log) + log.dropped == 5001
    assert lines(log)[-1] == "000004999"


def test_memory_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_BYTES", 1 << 20)
    log = LogStore()
    for number in range(100):
        log.add(1, number * 65536, b"x" * 65535 + b"\n")
    log.add(1, 100 * 65536, b"y" * (4 << 20))
    assert sum(len(line) for line in log._lines if isinstance(line, bytes)) <= 1 << 20
    assert len(log._rest[1]) <= logs.MOST_OF_A_LINE


def test_the_log_can_be_drawn_while_it_grows() -> None:
    log = LogStore()

    def write() -> None:
        for epoch in range(1, 400):
            log.add(epoch, 0, b"line\n" * 20 + b"rest")

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        last = len(log) - 1
        if last >= 0:
            log.line(last)
    writer.join()
    assert log.size(399) == 104


def test_another_run_begins_with_an_empty_log() -> None:
    log = LogStore()
    log.add(1, 0, b"one\n")
    log.link = "down"
    log.clear()
    assert (len(log), log.size(1), log.link) == (0, 0, "")
