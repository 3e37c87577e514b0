"""The table of design, "Detection", row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
from vl_agent.protocol import Beat

from vl_tui.controller.witness import Watch
from vl_tui.domain.box import BoxState
from vl_tui.domain.evidence import Evidence, VerdictName, judge, statements

GRACE = 10.0
MOVES, SILENT = 0.5, 11.0


def seen(
    ssh: float, store: float | None, word: BoxState = "running", heard: float | None = None, error: str = ""
) -> Evidence:
    return Evidence(ssh, ssh if heard is None else heard, store, word, 1.0, store_error=error)


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (seen(MOVES, MOVES), "alive"),
        (seen(SILENT, MOVES), "link_only"),
        (seen(MOVES, SILENT), "at_risk"),
        (seen(MOVES, MOVES, error="403"), "at_risk"),
        (seen(SILENT, SILENT, heard=0.5), "supervisor_dead"),
        (seen(SILENT, SILENT), "lost"),
        (seen(SILENT, SILENT, "unknown"), "lost"),
        (seen(MOVES, MOVES, "gone"), "lost"),
        (seen(MOVES, MOVES, "preempted"), "lost"),
        (seen(MOVES, MOVES, "stopped"), "lost"),
        (seen(5.0, 5.0), "suspect"),
        (seen(SILENT, 9.0), "suspect"),
        (seen(9.0, SILENT), "suspect"),
        (seen(MOVES, None), "alive"),
        (seen(SILENT, None), "lost"),
    ],
)
def test_each_row_of_the_table_has_its_verdict(evidence: Evidence, verdict: VerdictName) -> None:
    assert judge(evidence, GRACE).name == verdict


@pytest.mark.parametrize("word", ["preempted", "gone", "stopped"])
def test_a_providers_word_is_final_and_silence_is_not(word: BoxState) -> None:
    assert judge(seen(MOVES, MOVES, word), GRACE).final
    assert not judge(seen(SILENT, SILENT), GRACE).final


def test_every_witness_is_named_with_its_age() -> None:
    rows = {row["witness"]: row for row in statements(seen(11.0, 0.4))}
    assert (rows["ssh"]["says"], rows["ssh"]["age_s"]) == ("silent", 11.0)
    assert rows["store"]["says"] == "moves"
    assert rows["provider"]["says"] == "running"


def test_what_the_agent_says_puts_it_at_risk_is_said_with_its_age() -> None:
    verdict = judge(replace(seen(MOVES, MOVES), at_risk="the disk is full", at_risk_s=720.0), GRACE)
    assert (verdict.name, verdict.words) == ("at_risk", "AT RISK 12m: the disk is full")
    assert judge(replace(seen(SILENT, SILENT), at_risk="the disk is full"), GRACE).name == "lost"


def beat(counter: int, epoch: int = 1) -> Beat:
    return Beat(counter, 1, epoch, "training")


def test_a_counter_that_stands_still_is_heard_but_has_not_moved() -> None:
    watch = Watch(0.0)
    for second in range(20):
        watch.beat_over_ssh(beat(7), float(second))
    found = watch.evidence(20.0, "spot", holds=True)
    assert found.ssh_heard_s == 1.0
    assert found.ssh_moved_s == 20.0


def test_a_counter_that_begins_again_at_zero_has_moved() -> None:
    watch = Watch(0.0)
    watch.beat_over_ssh(beat(900), 1.0)
    watch.beat_over_ssh(beat(0), 50.0)
    assert watch.evidence(50.0, "spot", holds=True).ssh_moved_s == 0.0


def test_the_first_beat_found_in_the_store_may_be_any_age_and_is_no_sign_of_life() -> None:
    watch = Watch(0.0)
    watch.beat_in_store(beat(3), 5.0)
    assert watch.evidence(5.0, "spot", holds=True).store_moved_s == 5.0
    watch.beat_in_store(beat(4), 6.0)
    assert watch.evidence(6.0, "spot", holds=True).store_moved_s == 0.0


def test_silence_while_the_observer_was_deaf_does_not_count() -> None:
    watch = Watch(0.0)
    watch.deaf(100.0)
    assert watch.evidence(103.0, "spot", holds=True).ssh_moved_s == 3.0


def test_a_provider_that_cannot_be_asked_leaves_its_last_word_standing() -> None:
    watch = Watch(0.0)
    watch.word("running", "", 1.0)
    watch.word("unknown", "", 9.0)
    found = watch.evidence(9.0, "spot", holds=True)
    assert (found.word, found.word_s) == ("running", 8.0)
