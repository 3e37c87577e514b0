"""The watch sees a save once, when it is whole, and never a torn one."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vl_agent.checkpoints import files, watch
from vl_agent.checkpoints.files import Examined, Span
from vl_agent.checkpoints.watch import QUIET_S, Saved, Watch

from tests.agent.held import torch_like


class Looked:
    """A checkpoint folder under a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "ckpt"
        self.folder.mkdir()
        self.now = 100.0
        self.watch = Watch(self.folder, lambda: self.now)

    def look(self, after: float = 0.3, *, patient: bool = True) -> list[str]:
        return [saved.name for saved in self.saves(after, patient=patient)]

    def saves(self, after: float = 0.3, *, patient: bool = True) -> list[Saved]:
        self.now += after
        return self.watch.look(patient=patient)

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def quiet(self) -> list[str]:
        """All that is seen in a while without a change."""
        return [name for _ in range(12) for name in self.look()]


@pytest.fixture
def looked(tmp_path: Path) -> Looked:
    return Looked(tmp_path)


ZIP = torch_like("x" * 4000)


def safetensors(size: int = 100) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"w" * size


# ------------------------------------------------------------------------------------------------------- when whole


def test_a_save_by_rename_counts_at_the_first_look_and_once(looked: Looked) -> None:
    looked.write(".step-40.tmp", ZIP).rename(looked.folder / "step-40.pt")
    (saved,) = looked.saves()
    assert (saved.name, saved.step, [part.path for part in saved.parts]) == ("step-40.pt", 40, ["step-40.pt"])
    assert looked.quiet() == []


def test_a_zip_written_in_place_counts_when_its_directory_is_there(looked: Looked) -> None:
    for end in range(0, len(ZIP), 700):
        looked.write("step-40.pt", ZIP[:end])
        assert looked.look() == []
    looked.write("step-40.pt", ZIP)
    assert looked.look() == ["step-40.pt"]


def test_a_zip_packed_in_a_way_that_can_not_be_unpacked_never_counts(looked: Looked) -> None:
    for kind in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED):
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w", kind) as archive:
            archive.writestr("state", bytes(range(256)) * 40)
        garbled = bytearray(whole.getvalue())
        garbled[45:60] = bytes(range(100, 115))
        looked.write(f"step-{kind}.pt", bytes(garbled))
    assert looked.quiet() == looked.look(patient=False) == []


def test_a_save_that_can_not_be_read_hides_no_other_and_is_told_once(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    examine = files.examine

    def failing(path: Path, spans: Sequence[Span] = ()) -> Examined:
        if path.name == "step-1.pt":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return examine(path, spans)

    monkeypatch.setattr(files, "examine", failing)
    looked.write("step-1.pt", ZIP)
    looked.write("step-2.pt", ZIP)
    assert looked.look() == ["step-2.pt"]
    assert looked.quiet() == []
    assert looked.watch.complaints() == ["step-1.pt can't be read: Input/output error"]
    assert looked.watch.complaints() == []


def test_a_folder_that_can_not_be_read_is_told_once_and_looked_at_again(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked.write("step-1.pt", ZIP)

    def stale(folder: Path) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", stale)
        assert looked.quiet() == []
    assert looked.watch.complaints() == ["ckpt can't be read: Stale file handle"]
    assert looked.look() == ["step-1.pt"]


def test_a_torn_zip_never_counts_not_at_the_end_either(looked: Looked) -> None:
    flipped = bytearray(ZIP)
    flipped[len(ZIP) // 2] ^= 1
    for number, torn in enumerate((ZIP[:-1], ZIP[:-22], ZIP[: len(ZIP) // 2], bytes(flipped), ZIP[:-200] + bytes(200))):
        looked.write(f"step-{number}.pt", torn)
    assert looked.quiet() == []
    assert looked.look(60) == []
    assert looked.look(patient=False) == []


def test_a_torn_zip_is_read_once_and_again_when_it_was_written(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    examine = files.examine
    monkeypatch.setattr(watch.files, "examine", lambda path, spans: read.append(path) or examine(path, spans))
    looked.write("step-1.pt", ZIP[:-1])
    assert looked.quiet() == []
    assert len(read) == 1, "a large torn file is not read three times a second"
    looked.write("step-1.pt", ZIP)
    assert looked.look() == ["step-1.pt"]


def test_a_zip_without_checksums_counts_by_its_directory(tmp_path: Path) -> None:
    body = bytearray(ZIP)
    archive = zipfile.ZipFile(io.BytesIO(ZIP))
    crc = struct.pack("<I", archive.infolist()[0].CRC)
    assert body.count(crc) == 2
    path = tmp_path / "a.pt"
    path.write_bytes(bytes(body).replace(crc, bytes(4)))
    assert files.examine(path).whole is True


def test_safetensors_counts_by_its_length_after_two_equal_looks(looked: Looked) -> None:
    whole = safetensors()
    looked.write("step-40.safetensors", whole[:-1])
    assert looked.quiet() == []
    looked.write("step-40.safetensors", whole)
    assert looked.look() == [], "its header is written first: full length says nothing while it is written"
    assert looked.look() == ["step-40.safetensors"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"1234567", struct.pack("<Q", 1 << 62) + b"{}", struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{}x",
        struct.pack("<Q", 20) + b'{"w": {"shape": [1]}', struct.pack("<Q", 5000) + b"[" * 5000,
        struct.pack("<Q", 8) + b'{"w": 1}',
    ],
)  # fmt: skip
def test_safetensors_of_any_bytes_is_torn_not_an_error(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(body)
    assert files.examine(path).whole is False


@given(st.binary(max_size=200), st.sampled_from([".pt", ".safetensors", ".bin", ""]), st.booleans())
def test_whatever_bytes_a_file_is_there_is_a_verdict(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, suffix: str, zipped: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(b"PK\x03\x04" + body if zipped else body)
    assert files.examine(path).whole in (False, None)


def test_a_file_without_marks_counts_after_a_quiet_time(looked: Looked) -> None:
    looked.write("step-40.pt", b"a bare pickle")
    assert looked.look() == []
    assert looked.look(QUIET_S - 0.1) == []
    looked.write("step-40.pt", b"a bare pickle, longer")
    assert looked.look() == [], "it begins to be quiet anew"
    assert looked.look(QUIET_S - 0.1) == []
    assert looked.look(0.2) == ["step-40.pt"]
    assert looked.quiet() == []


def test_once_the_command_has_ended_nobody_waits_for_quiet(looked: Looked) -> None:
    looked.write("step-40.pt", b"a bare pickle")
    looked.write("step-41.safetensors", safetensors())
    assert looked.look(0, patient=False) == ["step-40.pt", "step-41.safetensors"]


def test_overwritten_in_place_it_counts_anew_each_time(looked: Looked) -> None:
    for words in ("one", "two!", "three"):
        looked.write("model.pt", torch_like(words))
        assert looked.look() == ["model.pt"]


def test_an_equal_name_of_equal_size_is_news_by_its_inode(looked: Looked) -> None:
    path = looked.write("step-1.pt", ZIP)
    assert looked.look() == ["step-1.pt"]
    stat = path.stat()
    looked.write("new.tmp", ZIP).rename(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert looked.look() == ["step-1.pt"]


# ---------------------------------------------------------------------------------------------- deleted, written again


def test_deleted_while_it_is_read_it_is_held_all_the_same(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    path, examine = looked.write("step-1.pt", ZIP), files.examine
    looked.write("step-2.pt", ZIP)

    def deletes(read: Path, spans: Sequence[Span]) -> Examined:
        path.unlink(missing_ok=True)
        return examine(read, spans)

    monkeypatch.setattr(watch.files, "examine", deletes)
    saves = looked.saves()
    assert [saved.name for saved in saves] == ["step-1.pt", "step-2.pt"]
    assert saves[0].parts[0].held.read_bytes() == ZIP


def test_deleted_before_it_is_held(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    path, hold = looked.write("step-1.pt", ZIP), files.hold
    looked.write("step-2.pt", ZIP)

    def deletes(source: Path, held: Path, *, copy: bool) -> Path:
        path.unlink(missing_ok=True)
        return hold(source, held, copy=copy)

    monkeypatch.setattr(watch.files, "hold", deletes)
    assert looked.look() == ["step-2.pt"], "the rotation of one is no reason to miss the other"
    assert looked.watch.damage() == []


def test_written_while_it_is_read_it_waits_for_the_next_look(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    path, examine = looked.write("step-1.pt", ZIP), files.examine

    def writes(read: Path, spans: Sequence[Span]) -> Examined:
        verdict = examine(read, spans)
        with path.open("ab") as file:
            file.write(b"x")
        return verdict

    monkeypatch.setattr(watch.files, "examine", writes)
    assert looked.look() == []


def test_a_folder_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert Watch(tmp_path / "later").look() == []


def test_what_was_restored_is_no_news(looked: Looked) -> None:
    looked.write("step-1.pt", ZIP)
    looked.watch.ignore_present()
    assert looked.quiet() == []
    looked.write("step-1.pt", torch_like("again"))
    assert looked.look() == ["step-1.pt"]


def test_held_content_outlives_the_scripts_rotation(tmp_path: Path) -> None:
    path = tmp_path / "step-1.pt"
    path.write_bytes(ZIP)
    held = files.hold(path, tmp_path / "hold" / "1")
    path.unlink()
    assert held.read_bytes() == ZIP
    with pytest.raises(FileNotFoundError):
        files.hold(path, tmp_path / "hold" / "2")


def test_without_hard_links_the_file_itself_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuses)
    path = tmp_path / "step-1.pt"
    path.write_bytes(ZIP)
    assert files.hold(path, tmp_path / "hold" / "1") == path


# ---------------------------------------------------------------------------------------------- which files, which step


def test_links_folders_and_fifos_are_no_saves(looked: Looked) -> None:
    (looked.folder.parent / "elsewhere.pt").write_bytes(ZIP)
    (looked.folder / "step-1.pt").symlink_to(looked.folder.parent / "elsewhere.pt")
    (looked.folder / "step-2.pt").mkdir()
    os.mkfifo(looked.folder / "step-3.pt")
    (looked.folder / "step-4.pt").symlink_to("nowhere")
    assert looked.quiet() == []
    assert looked.look(patient=False) == []


@pytest.mark.parametrize(
    "name", [".step-1.pt", "step-1.pt.tmp", "step-1.pt.part", "events.out.tfevents.1.2", "loss-1.png", "train_1.log"]
)
def test_saves_under_way_and_what_lies_beside_are_no_checkpoints(looked: Looked, name: str) -> None:
    looked.write(name, ZIP)
    assert looked.quiet() == []


def test_a_copy_without_a_number_beside_numbered_ones_is_no_second_save(looked: Looked) -> None:
    looked.write("last.pt", ZIP)
    looked.write("step-1.pt", ZIP)
    assert looked.quiet() == ["step-1.pt"]


def test_one_file_that_is_always_overwritten_is_a_save_of_no_known_step(looked: Looked) -> None:
    looked.write("last.pt", ZIP)
    (saved,) = looked.saves()
    assert (saved.name, saved.step) == ("last.pt", None)


def test_several_come_in_the_order_of_their_steps(looked: Looked) -> None:
    for step in (100, 9, 20):
        looked.write(f"step-{step}.pt", ZIP)
    assert looked.look() == ["step-9.pt", "step-20.pt", "step-100.pt"]


def test_what_the_helper_told_is_seen_once(looked: Looked) -> None:
    looked.write("step-1.pt", ZIP)
    saved = looked.watch.told("step-1.pt", 77, 0.5)
    assert saved is not None
    assert (saved.step, saved.took_s) == (77, 0.5)
    assert looked.watch.told("step-1.pt", 77, 0.5) is None
    assert looked.quiet() == []


@pytest.mark.parametrize(
    "name", ["../outside.pt", "/etc/passwd", "", ".", "..", "sub/x.pt", "a\0b", "x" * 5000, "link"]
)
def test_what_the_helper_tells_is_no_way_out_of_the_folder(looked: Looked, name: str) -> None:
    (looked.folder.parent / "outside.pt").write_bytes(ZIP)
    (looked.folder / "sub").mkdir()
    (looked.folder / "sub" / "x.pt").write_bytes(ZIP)
    (looked.folder / "link").symlink_to(looked.folder.parent / "outside.pt")
    assert looked.watch.told(name, 1, None) is None


STEPS = {
    "step-000000040.pt": 40,
    "model_000040.pt": 40,
    "checkpoint-40": 40,
    "epoch=1-step=40-loss=0.25.ckpt": 40,
    "epoch=1-step=40.ckpt": 40,
    "iter_0000040": 40,
    "step40-v2.pt": 40,
    "resnet50_40.pt": 40,
    "last.pt": None,
    "model-0.25.pt": None,
    "weights.safetensors": None,
}


@pytest.mark.parametrize(("name", "step"), STEPS.items())
def test_the_step_in_a_name(name: str, step: int | None) -> None:
    assert files.step_of(name) == step


@given(st.integers(0, 10**12 - 1), st.sampled_from(["step-{}", "epoch=3-step={}", "iter_{}", "7b-steps{}-v3", "m_{}"]))
@example(0, "step-{}")
def test_the_step_that_is_written_is_the_step_that_is_read(step: int, form: str) -> None:
    for suffix in (*files.SUFFIXES, ""):
        assert files.step_of(form.format(step) + suffix) == step
        assert files.step_of(form.format(f"{step:012d}") + suffix) == step


@given(st.text(max_size=60))
@example("9" * 50)
@example("٣")
def test_whatever_the_name_a_step_has_at_most_twelve_digits(name: str) -> None:
    step = files.step_of(name)
    assert step is None or 0 <= step < 10**12


def test_a_folder_in_it_that_can_be_read_in_part_counts_only_once_it_can_be_read(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("epoch_1/a/a.pt", "epoch_1/b/b.pt"):
        (looked.folder / path).parent.mkdir(parents=True)
        looked.write(path, ZIP)
    scandir, below = os.scandir, itertools.count(1)

    def stale(folder: Path) -> object:
        if Path(folder).parent.name == "epoch_1" and next(below) % 2 == 0:  # whichever comes second
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(folder))
        return scandir(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", stale)
        assert looked.quiet() == []
    assert looked.watch.complaints() == ["epoch_1 can't be read: Stale file handle"]
    assert looked.quiet() == ["epoch_1"]
