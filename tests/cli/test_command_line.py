"""Options, and failures as a person reads them."""

from __future__ import annotations

import errno
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from vl_tui import cli, failure


def vl_tui(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "vl_tui.cli", *arguments]
    return subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["submi"],
        ["submit"],
        ["ls", "--jsn"],
        ["logs"],
        ["stop"],
        ["ls", "--", "x"],
        ["demo", "--seed", "x"],
        ["--flet", "x"],
    ],
)
def test_an_unknown_or_missing_option_is_one_line_and_exit_2(arguments: list[str], tmp_path: Path) -> None:
    done = vl_tui(*arguments, home=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "--help" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"],
        ["submit", "run.yaml"],
        ["logs", "a"],
        ["stop", "a"],
        ["checkpoints", "a"],
        ["pin", "a", "1"],
        ["rollback", "a", "1"],
        ["controller"],
        [],
    ],
)
def test_without_a_fleet_every_command_says_what_to_write(arguments: list[str], tmp_path: Path) -> None:
    done = vl_tui(*arguments, home=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path}/.config/vl-tui/fleet.yaml: no such file" in done.stderr
    assert "store: s3://" in done.stderr


@pytest.mark.parametrize("arguments", [["--fleet", "x.yaml", "ls"], ["ls", "--fleet", "x.yaml"]])
def test_the_fleet_may_stand_before_or_after_the_command(arguments: list[str]) -> None:
    assert cli.parse(arguments).fleet == Path("x.yaml")


def test_a_persons_own_training_command_is_taken_as_it_is() -> None:
    args = cli.parse(
        ["demo", "--checkpoints", "ckpt", "--seed", "3", "--", "python", "train.py", "--seed", "4", "--", "x"]
    )
    assert args.training == ["python", "train.py", "--seed", "4", "--", "x"]
    assert (args.seed, args.checkpoints) == (3, "ckpt")


@pytest.mark.parametrize("arguments", [["--resume-state"], ["--checkpoints", "ckpt"], ["--", "python", "train.py"]])
def test_a_demo_that_lacks_half_of_what_it_needs_says_so(arguments: list[str], tmp_path: Path) -> None:
    done = vl_tui("demo", *arguments, home=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(("module", "name", "code"), failure.CODES)
def test_every_error_with_an_exit_code_of_its_own_exists(module: str, name: str, code: int) -> None:
    assert issubclass(getattr(importlib.import_module(module), name), Exception)
    assert code in (failure.MISTAKE, failure.UNREACHABLE)


def test_a_full_disk_is_said_in_words() -> None:
    code, words = failure.explain(OSError(errno.ENOSPC, "No space left on device", "/x/y"))
    assert code == failure.UNREACHABLE
    assert "no space left" in words
    assert "/x/y" in words


def test_what_nobody_foresaw_is_kept_in_a_private_file_without_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def breaks() -> None:
        password = "hunter2"  # a local of the failing frame
        raise KeyError(len(password))

    with pytest.raises(KeyError) as caught:
        breaks()
    code, words = failure.explain(caught.value)
    assert code == failure.BUG
    assert "\n" not in words
    [path] = (tmp_path / "vl-tui").glob("crash-*.txt")
    assert str(path) in words
    assert path.stat().st_mode & 0o077 == 0
    assert "breaks" in path.read_text()
    assert "hunter2" not in path.read_text().replace('password = "hunter2"', "")


def test_words_from_elsewhere_cannot_drive_the_terminal() -> None:
    _, words = failure.explain(failure.Refused("no run \x1b]52;c;aGk=\x07\nfound"))
    assert words.isprintable()
