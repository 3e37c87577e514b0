"""What every layout promises, whichever framework it is: recognised, whole when it is whole, held, resumable."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from vl_agent.checkpoints import files, layouts

from tests.layouts.looking import Looking, held
from tests.layouts.writers import KINDS, Kind, lay


@pytest.fixture(params=KINDS, ids=lambda kind: kind.id)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def looking(tmp_path: Path) -> Looking:
    return Looking(tmp_path)


def test_it_is_recognised_whole_with_all_its_files_and_its_step(kind: Kind, looking: Looking) -> None:
    looking.lay(kind, 40)
    (saved,) = looking.quiet()
    assert saved.layout.name == kind.layout
    assert saved.layout.resume
    assert held(saved) == kind.write(40)
    assert saved.step == (40 if kind.step else None)
    assert {part.path: part.digest for part in saved.parts} == {
        part.path: files.digest(part.held) for part in saved.parts
    }


def test_with_marks_it_counts_at_once_and_without_after_a_quiet_while(kind: Kind, looking: Looking) -> None:
    looking.lay(kind, 40)
    assert bool(looking.soon()) is not kind.quiet
    assert bool(looking.quiet()) is kind.quiet


def test_it_counts_once_until_it_is_written_again(kind: Kind, looking: Looking) -> None:
    looking.lay(kind, 40)
    assert len(looking.quiet()) == 1
    assert looking.ever() == []


def test_of_every_state_on_the_way_to_a_whole_one_none_counts(kind: Kind, looking: Looking) -> None:
    """File by file, as the framework writes; each state is looked at twice."""
    looking.lay(kind, 40)
    assert looking.quiet()
    whole = kind.write(80)
    written = dict[str, bytes]()
    for path, data in whole.items():
        if written and kind.id != "torch.save-several":  # its first file counts by itself until the set is known
            assert looking.soon() == [], f"before {path}"
        written[path] = data
        lay(looking.folder, {path: data})
    lay(looking.folder, {}, kind.pointer(80))
    assert [held(saved) for saved in looking.quiet()] == [whole]


def test_the_frameworks_rotation_takes_nothing_of_what_was_seen_and_is_no_damage(kind: Kind, looking: Looking) -> None:
    looking.lay(kind, 40)
    (saved,) = looking.quiet()
    gone = []
    for path in kind.write(40):  # as rmtree, in whatever order, with a look after each
        (looking.folder / path).unlink()
        gone += looking.look()
    assert gone == []
    for folder in looking.folder.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    assert looking.ever() == []
    assert looking.watch.damage() == []
    assert held(saved) == kind.write(40)
    saved.let_go()
    assert not saved.pin.exists()


def test_what_was_restored_is_no_news_and_says_how_full_the_next_must_be(kind: Kind, looking: Looking) -> None:
    looking.lay(kind, 40)
    looking.watch.ignore_present()
    assert looking.ever() == []
    looking.lay(kind, 80)
    assert [held(saved) for saved in looking.quiet()] == [kind.write(80)]


def test_what_must_point_at_it_is_what_the_framework_writes(kind: Kind) -> None:
    layout = layouts.named(kind.layout)
    assert layout is not None
    found = layout.pointers(list(kind.write(40)), 40)
    said = {one.path: one.text if one.link is None else f"-> {one.link}" for one in found}
    assert said == kind.pointer(40)


def test_a_save_under_way_in_the_folder_is_waited_for(kind: Kind, looking: Looking) -> None:
    name = next(iter(kind.write(40)))
    if "/" not in name:
        pytest.skip("one file, or files side by side")
    looking.lay(kind, 40)
    temporary = looking.folder / name.partition("/")[0] / ".tmpAbCdEf"
    temporary.write_bytes(b"half")
    assert looking.ever() == []
    temporary.unlink()
    assert looking.quiet()


def test_every_layout_has_a_kind_here() -> None:
    assert {layout.name for layout in layouts.LAYOUTS} == {kind.layout for kind in KINDS}
