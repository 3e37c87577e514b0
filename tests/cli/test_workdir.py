"""The working folder as a tar."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path, PurePosixPath

import blake3
import pytest

from vl_tui.commands import workdir
from vl_tui.failure import Refused


def tree(folder: Path, *files: str) -> Path:
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    return folder


def names(tar: Path) -> list[str]:
    with tarfile.open(tar) as opened:
        return opened.getnames()


def test_the_same_files_make_the_same_bytes_wherever_and_whenever_they_lie(tmp_path: Path) -> None:
    first = tree(tmp_path / "a", "train.py", "lib/model.py", "lib/data.py")
    second = tree(tmp_path / "b", "lib/data.py", "lib/model.py", "train.py")
    os.utime(second / "train.py", (1, 1))
    (first / "train.py").chmod(0o600)
    packed = workdir.pack(first, tmp_path / "a.tar")
    assert packed == workdir.pack(second, tmp_path / "b.tar")
    raw = (tmp_path / "a.tar").read_bytes()
    assert (packed.digest, packed.size) == (blake3.blake3(raw).hexdigest(), len(raw))
    assert names(tmp_path / "a.tar") == ["lib", "lib/data.py", "lib/model.py", "train.py"]


def test_what_is_no_code_or_holds_secrets_stays_at_home(tmp_path: Path) -> None:
    folder = tree(tmp_path / "w", ".git/HEAD", "lib/__pycache__/x.pyc", ".venv/bin/python", ".env", "ckpt/step-1.pt",
                  "lib/ckpt/kept.py", "data/big.bin", "notes/a.md", "train.py")  # fmt: skip
    (folder / ".vlignore").write_text("# data\ndata/\nnotes/*.md\n")
    workdir.pack(folder, tmp_path / "t.tar", ignore=("/ckpt",))
    assert names(tmp_path / "t.tar") == [".vlignore", "lib", "lib/ckpt", "lib/ckpt/kept.py", "notes", "train.py"]


def test_a_program_stays_one_and_contents_come_back(tmp_path: Path) -> None:
    folder = tree(tmp_path / "w", "run.sh", "ä ö.txt")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("run.sh")
    os.link(folder / "run.sh", folder / "second-name.sh")
    workdir.pack(folder, tmp_path / "t.tar")
    with tarfile.open(tmp_path / "t.tar") as tar:
        tar.extractall(tmp_path / "out", filter="data")
    assert (tmp_path / "out" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out" / "link").readlink() == Path("run.sh")
    assert (tmp_path / "out" / "second-name.sh").read_text() == "content of run.sh"
    assert (tmp_path / "out" / "ä ö.txt").read_text() == "content of ä ö.txt"


def test_a_link_out_of_the_folder_or_a_pipe_is_left_out_and_said_so(tmp_path: Path) -> None:
    folder = tree(tmp_path / "w", "train.py", "sub/x.py")
    (folder / "data").symlink_to("/mnt/data")
    (folder / "sub" / "up").symlink_to("../../elsewhere")
    (folder / "sub" / "down").symlink_to("../train.py")
    os.mkfifo(folder / "pipe")
    packed = workdir.pack(folder, tmp_path / "t.tar")
    assert packed.left_out == ("data", "pipe", "sub/up")
    assert names(tmp_path / "t.tar") == ["sub", "sub/down", "sub/x.py", "train.py"]


def test_a_folder_too_large_to_travel_is_refused_with_what_is_large_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tree(tmp_path / "w", "train.py")
    (folder / "data.bin").write_bytes(bytes(2000))
    monkeypatch.setattr(workdir, "MAX_BYTES", 1000)
    with pytest.raises(Refused, match=r"data\.bin.*\.vlignore"):
        workdir.pack(folder, tmp_path / "t.tar")
    (folder / ".vlignore").write_text("*.bin\n")
    assert workdir.pack(folder, tmp_path / "t.tar").files == 2


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    folder = tree(tmp_path / "w", "train.py")
    path = folder / "gone.py"
    path.symlink_to("train.py")
    entries = [PurePosixPath("gone.py")]
    path.unlink()
    with tarfile.open(tmp_path / "t.tar", "w") as tar, pytest.raises(Refused, match=r"gone\.py can't be packed"):
        workdir._add(tar, folder, entries[0])
