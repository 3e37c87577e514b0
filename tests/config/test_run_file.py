"""run.yaml: what is read, and what a person reads when it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vl_tui.config import ConfigError, load_run

GOOD = """\
name: char-lm
run: python train.py --resume
setup: pip install -r requirements.txt
workdir: .
checkpoints: {path: ckpt, every: 5m, keep: 4}
resources: {gpu: "A100:1", market: on_demand}
deadline: 2026-12-01T18:00:00+01:00
budget: 60
steps: 2000
env: {WANDB_MODE: offline}
secrets: [HF_TOKEN]
"""
SMALL = "name: a\nrun: python train.py\ncheckpoints: {path: ckpt}\n"

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return _write


def complaint(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_every_key_of_the_example_is_read(write: Write, tmp_path: Path) -> None:
    config = load_run(write(GOOD))
    assert config.run == "python train.py --resume"
    assert config.checkpoints.every == 300.0
    assert config.checkpoints.keep == 4
    assert (config.resources.gpu, config.resources.market) == ("A100:1", "on_demand")
    assert config.deadline == datetime(2026, 12, 1, 18, tzinfo=timezone(timedelta(hours=1)))
    assert (config.budget, config.steps) == (60.0, 2000)
    assert config.env == {"WANDB_MODE": "offline"}
    assert config.secrets == ("HF_TOKEN",)
    assert config.workdir_path == tmp_path.resolve()


def test_three_keys_are_enough(write: Write) -> None:
    config = load_run(write(SMALL))
    assert config.checkpoints.path == "ckpt"
    assert config.resources.gpu is None
    assert config.deadline is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("secret: [A]", ["line 4, secret", "Did you mean 'secrets'?"]),
        ("budget: sixty", ["line 4, budget", "must be a number", "'sixty'"]),
        ("budget: true", ["line 4, budget", "must be a number"]),
        ("budget: .inf", ["line 4, budget", "finite"]),
        ("budget: 0", ["line 4, budget", "more than 0"]),
        ("steps: 1.5", ["line 4, steps", "whole number"]),
        ("deadline: 2026-12-01T18:00:00", ["line 4, deadline", "no time zone", "+01:00"]),
        ("deadline: tomorrow", ["line 4, deadline", "not a date and time"]),
        ("env: {EPOCHS: 3}", ["line 4, env.EPOCHS", "must be text", "in quotes"]),
        ("env: {VL_RUN: x}", ["line 4, env.VL_RUN", "VL_ are vl-tui's own"]),
        ("env: {A: a}\nsecrets: [A]", ["both env and secrets"]),
        ("secrets: HF_TOKEN", ["line 4, secrets", "a list"]),
        ("secrets: [HF-TOKEN]", ["line 4, secrets[0]", "environment variable"]),
        ("resources: {market: spott}", ["line 4, resources.market", "'spot', 'on_demand' or 'owned'"]),
        ("resources: {gpus: 1}", ["line 4, resources.gpus", "Did you mean 'gpu'?"]),
        ("resources: {gpu: 'A100:none'}", ["line 4, resources.gpu", "A100:1"]),
        ("workdir: nowhere", ["line 4, workdir", "not a folder"]),
        ("name: b", ["line 4, name", "given twice", "first on line 1"]),
        ("env: !!python/object/apply:os.system [id]", ["line 4", "tags aren't used"]),
        ("env: !x {}", ["line 4", "tags aren't used"]),
        ("env: *nothing", ["line 4", "undefined alias"]),
        ("env: {", ["line 5", "not valid YAML"]),
    ],
)
def test_a_mistake_is_named_with_its_line_and_key_and_what_to_do(write: Write, line: str, words: list[str]) -> None:
    text = complaint(write(SMALL + line + "\n"))
    assert all(word in text for word in words), text


@pytest.mark.parametrize("path", ["../out", "/abs", "a/../../b", ".", ""])
def test_checkpoints_stay_inside_the_working_folder(write: Write, path: str) -> None:
    text = complaint(write(f"name: a\nrun: b\ncheckpoints: {{path: '{path}'}}\n"))
    assert "line 3, checkpoints.path" in text
    assert "inside the working folder" in text


@pytest.mark.parametrize("name", ["../etc", "a/b", "A", "-a", "a-", "a" * 41, "", "a b", "ä"])
def test_a_name_that_could_leave_its_place_is_refused(write: Write, name: str) -> None:
    text = complaint(write(f"name: '{name}'\nrun: b\ncheckpoints: {{path: c}}\n"))
    assert "line 1, name" in text


@pytest.mark.parametrize(
    ("every", "seconds"), [("15s", 15.0), ("5m", 300.0), ("2h", 7200.0), ("1.5m", 90.0), ("1d", 86400.0)]
)
def test_durations_have_units(write: Write, every: str, seconds: float) -> None:
    config = load_run(write(f"name: a\nrun: b\ncheckpoints: {{path: c, every: {every}}}\n"))
    assert config.checkpoints.every == seconds


@pytest.mark.parametrize("every", ["300", "5 minutes", "-5m", "0s", "5:00"])
def test_a_duration_without_a_known_unit_is_refused(write: Write, every: str) -> None:
    text = complaint(write(f"name: a\nrun: b\ncheckpoints: {{path: c, every: {every}}}\n"))
    assert "line 3, checkpoints.every" in text


def test_a_yaml_bomb_is_refused_at_once(write: Write) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert "expand without end" in complaint(write("\n".join(lines)))


def test_an_alias_of_itself_is_refused(write: Write) -> None:
    assert "expand without end" in complaint(write("env: &a [*a]\n"))


def test_deep_nesting_is_refused(write: Write) -> None:
    assert "nested deeper" in complaint(write("env: " + "[" * 100_000))


def test_a_file_larger_than_any_run_needs_is_refused(write: Write) -> None:
    assert "larger than 1 MiB" in complaint(write("#" * (1 << 20) + "\n" + SMALL))


def test_a_file_that_is_not_there_or_not_text_is_said_so(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "none.yaml")
    assert "can't be read" in complaint(tmp_path)
    (tmp_path / "latin").write_bytes(b"name: a\nrun: caf\xe9\n")
    assert "line 2: not UTF-8" in complaint(tmp_path / "latin")


def test_a_complaint_carries_no_control_character_from_the_file(write: Write) -> None:
    text = complaint(write(SMALL + '"\\x1b]52;c;aGk=\\x07": 1\n'))
    assert text.isprintable(), text
    text = complaint(write('name: "\\x1b[31m"\nrun: b\ncheckpoints: {path: c}\n'))
    assert text.isprintable(), text


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(max_size=200)
    | st.lists(st.sampled_from(SMALL.split(" ") + list('[]{}&*!"\\:-#\n,')), max_size=30).map(" ".join)
)
def test_no_text_at_all_is_worse_than_a_complaint(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        outcome = load_run(path).name
    except ConfigError as error:
        outcome = str(error)
    assert "\n" not in outcome
