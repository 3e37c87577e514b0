"""Rows become lines: exactly so many cells, nothing but harmless text, whatever came in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from vl_agent.protocol import Event, Head

from tests.app.hand_made import LOOK, NOW, SIZES, attempt, box, event, facts, lines, offer, picture, run
from tests.test_invariant_9_hostile_output import HOSTILE, is_harmless
from vl_tui.app.dialogs import candidate_rows
from vl_tui.app.dialogs.dialog import ConfirmDialog, HelpDialog
from vl_tui.app.dialogs.frame import framed
from vl_tui.app.draw import Piece, Row, pad, row, rule, wrap
from vl_tui.app.log import LogStore
from vl_tui.app.screens import fleet_rows, run_rows
from vl_tui.app.screens.fleet_rows import FleetState
from vl_tui.app.screens.run_rows import RunState
from vl_tui.domain.timeline import WORTH_A_LINE

WORDS = (
    st.text(max_size=30)
    | st.sampled_from([data.decode(errors="replace") for data in HOSTILE.values()])
    | st.sampled_from(
        ["東京データセンター", "[bold red]x[/]", "a" * 300, "👩‍👩‍👧‍👦", "\u202etxt.exe", "🇩🇪🇫🇷", "e\u0301" * 9]
    )
)
NUMBERS = st.floats() | st.integers() | st.integers(-(10**30), 10**30) | st.sampled_from([0, 1, 2**53, 10**400])
ANYTHING = (
    WORDS
    | NUMBERS
    | st.none()
    | st.booleans()
    | st.lists(WORDS, max_size=2)
    | st.dictionaries(WORDS, WORDS, max_size=2)
)
PIECES = st.builds(Piece, WORDS, st.sampled_from(["text", "lost"]), st.booleans(), st.integers(0, 3))
ROWS = st.builds(
    Row, st.lists(PIECES, max_size=5).map(tuple), st.lists(PIECES, max_size=3).map(tuple),
    st.sampled_from(["", "bar", "select"]),
)  # fmt: skip
TIMES = st.floats(-1e12, 1e12) | st.sampled_from([0.0, 1e299, -1e299, NOW - 60])
FIELDS = (
    "launch", "provider", "place", "market", "usd_hour", "why", "words", "step", "total", "loss", "reason", "detail",
    "bytes", "took_s", "window_s", "source", "verdict", "cause", "action", "result", "text", "state", "owner",
    "repeated", "mismatched",
)  # fmt: skip
VIEW = ("verdict", "words", "waiting", "spent_usd", "usd_hour", "boxes", "progress", "evidence")


def is_drawn(rows: list[Row], width: int) -> bool:
    """Exactly ``width`` cells a line, in both alphabets, and nothing that a terminal obeys."""
    plain = lines(rows, width, ascii_only=True)
    return all(map(is_harmless, lines(rows, width))) and all(line.isascii() for line in plain)


@given(ROWS, st.integers(1, 170))
def test_a_row_is_exactly_as_wide_as_the_screen(one: Row, width: int) -> None:
    assert is_drawn([one], width)


@given(WORDS, st.integers(1, 60), st.booleans())
def test_a_padded_cell_is_exactly_as_wide_as_its_column(text: str, width: int, right: bool) -> None:
    assert cell_len(pad(text, width, right=right)) == width


@given(st.lists(ROWS, max_size=4), st.integers(8, 170))
def test_a_frame_is_a_rectangle(body: list[Row], width: int) -> None:
    for line in lines(framed(body, width), width)[1:-1]:
        assert line.startswith("│ ")
        assert line.endswith(" │")


@given(WORDS, st.integers(4, 80), st.integers(1, 4))
def test_wrapped_text_keeps_to_its_lines_and_loses_no_word_that_fits(text: str, width: int, most: int) -> None:
    found = wrap(text, width, most)
    assert len(found) <= most
    assert all(cell_len(line) <= width for line in found)
    assert wrap("one two three four", 9, 4) == ["one two", "three", "four"]


def test_pieces_leave_by_their_drop_order_and_the_right_end_stays() -> None:
    one = row(Piece("name"), Piece(" less", drop=2), Piece(" least", drop=3), right=(Piece("live"),))
    assert [picture([one], width) for width in (20, 16, 13, 9)] == [
        "name less least live", "name less   live", "name     live"[:13], "name live",
    ]  # fmt: skip
    assert picture([one], 7) == "n… live"


def test_a_rule_is_as_wide_as_the_screen_and_a_long_title_is_cut() -> None:
    assert picture([rule("log", 20, right="x")], 20) == "─ log ─────────── x "
    assert "…" in picture([rule("a" * 50, 20, right="x")], 20)


def test_every_glyph_has_a_likeness_in_ascii() -> None:
    found = facts(run(events=[*attempt(1, 600, steps=range(1, 40)), event(5, "notice", 1)], boxes=[box(1)]))
    for width, height in SIZES:
        shown = [
            *fleet_rows.rows(found, FleetState(), width, height, NOW),
            *run_rows.rows(found, RunState("char-lm"), LogStore(), width, height, NOW),
            *framed([row(Piece("━╍●○▲✗┄═⇄⇑✓■▌┊▸►→…–·"))], width),
        ]
        plain = picture(shown, width, ascii_only=True)
        assert plain.isascii()
        assert "?" not in plain.replace("? help", "").replace("? not heard", "")


def test_an_ascii_screen_shows_a_foreign_name_in_as_many_cells() -> None:
    assert picture([row(Piece("東京 ●"))], 8, ascii_only=True) == "???? D  "


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.tuples(st.sampled_from(WORTH_A_LINE) | WORDS, TIMES, st.integers(0, 3)), max_size=6),
    fields=st.dictionaries(st.sampled_from(FIELDS), ANYTHING),
    view=st.dictionaries(st.sampled_from(VIEW), ANYTHING | st.just([])),
    boxes=st.lists(st.dictionaries(st.sampled_from(list(box(1))), ANYTHING), max_size=3),
    words=WORDS,
    size=st.sampled_from(SIZES),
)  # fmt: skip
def test_whatever_boxes_and_files_tell_every_screen_is_drawn_whole(
    kinds: list[tuple[str, float, int]], fields: dict[str, Any], view: dict[str, Any], boxes: list[dict[str, Any]],
    words: str, size: tuple[int, int],
) -> None:  # fmt: skip
    width, height = size
    events = [*attempt(1, 900, steps=[1, 2, 10]), *(Event(t, kind, epoch, fields) for kind, t, epoch in kinds)]
    one = run(events=events, detail=words, deadline=NOW + 60)
    one = replace(one, view=one.view | view | ({"boxes": boxes} if boxes else {}))
    found = facts(
        one, store_error=words, failing_since=NOW, unreadable={words: words}, alerts=((NOW, words),),
        controller=words, controller_error=words,
    )  # fmt: skip
    log = LogStore()
    log.add(1, 0, words.encode(errors="replace") + b"\n" + words.encode(errors="replace"))
    log.link = words
    fleet = fleet_rows.rows(found, FleetState(filter=words[:40], status=words), width, height, NOW)
    every = fleet_rows.rows(replace(found, store_error=""), FleetState(), width, height, NOW)
    opened = run_rows.rows(found, RunState("char-lm", status=words), log, width, height, NOW)
    assert {len(fleet), len(every), len(opened)} == {height}
    assert all(is_drawn(rows, width) for rows in (fleet, every, opened))
    offers = (offer(words, provider=words, note=words), offer("west", usd_hour=9e99, available="none", note=words))
    choice = candidate_rows.choice(replace(found, offers=offers), one, "migrate", NOW)
    for picked in range(len(choice.found) + 1):
        assert is_drawn(candidate_rows.rows(choice, picked, min(76, width - 2), height - 2, NOW), min(76, width - 2))


@pytest.mark.parametrize(("width", "height"), [(58, 13), (76, 22), (104, 48)])
def test_help_and_confirmation_fit_into_the_smallest_terminal(width: int, height: int) -> None:
    from vl_tui.app.screens import fleet
    from vl_tui.app.screens import run as run_screen

    confirm = ConfirmDialog("Stop x", ["words " * 30, "It has no checkpoint yet."], "stop the run")
    helps = [HelpDialog("fleet", fleet.HELP), HelpDialog("run", run_screen.HELP)]
    for dialog in (confirm, *helps):
        drawn = dialog.content(width, height)
        assert len(drawn) <= height
        text = picture(drawn, width)
        assert "╰" in text.splitlines()[-1]
        assert ("esc cancel" if dialog is confirm else "⇑ escalate") in text


def test_the_screens_use_the_theme_for_every_role() -> None:
    found = facts(run(events=attempt(1, 600, steps=range(1, 40)), boxes=[box(1)]))
    rows = fleet_rows.rows(found, FleetState(), 160, 50, NOW)
    roles = {piece.role for one in rows for piece in (*one.left, *one.right)} | {one.on for one in rows if one.on}
    assert roles <= set(LOOK.styles)
    assert isinstance(found.runs[0].head, Head)
