"""What goes wrong between a person and the program: one paragraph, the right exit code, no traceback."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from vl_agent import head
from vl_agent.protocol import CheckpointPolicy, RunSpec, log_key
from vl_agent.store import open_store


class Person:
    """Somebody with a home folder and a fleet whose store is a folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {"HOME": str(home), "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(home)}
        self.fleet(f"store: file://{home}/store\nproviders: [{{kind: local, socket: {home}/none}}]\n")

    def fleet(self, text: str) -> None:
        path = self.home / ".config" / "vl-tui" / "fleet.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("fleet: mine\n" + text)

    def run_yaml(self, more: str = "") -> str:
        path = self.home / "run.yaml"
        (self.home / "work").mkdir(exist_ok=True)
        path.write_text(f"name: a\nrun: 'true'\nworkdir: work\ncheckpoints: {{path: ckpt}}\n{more}")
        return str(path)

    def start(self, *arguments: str, stdout: int | None = subprocess.PIPE, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "vl_tui.cli", *arguments]
        return subprocess.Popen(
            command, env=self.env | env, cwd=self.home, stdout=stdout, stderr=subprocess.PIPE, text=True
        )

    def says(self, *arguments: str, exit_code: int, stdout: int | None = subprocess.PIPE, **env: str) -> str:
        process = self.start(*arguments, stdout=stdout, **env)
        _, said = process.communicate(timeout=60)
        assert process.returncode == exit_code, said
        assert "Traceback" not in said
        assert said.count("\n") == 1, said
        return said

    def has_run(self, name: str) -> None:
        spec = RunSpec(name, "mine", "true", CheckpointPolicy("ckpt"))
        asyncio.run(head.submit(open_store(f"file://{self.home}/store"), spec))


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


@pytest.mark.parametrize("command", ["logs", "stop"])
def test_an_unknown_run_is_named_with_the_one_that_was_meant(person: Person, command: str) -> None:
    person.has_run("char-lm")
    said = person.says(command, "chr-lm", exit_code=2)
    assert "no run is called 'chr-lm'" in said
    assert "Did you mean 'char-lm'?" in said


@pytest.mark.parametrize("command", ["logs", "stop"])
def test_a_run_name_that_leaves_its_place_is_refused(person: Person, command: str) -> None:
    assert "'../../etc'" in person.says(command, "../../etc", exit_code=2)


@pytest.mark.parametrize("where", ["x" * 300, "run.yaml/below", "loop"])
@pytest.mark.parametrize("words", ["--fleet {} ls", "submit {}", "demo --headless --state {}"])
def test_a_path_that_can_be_none_is_a_mistake_and_named(person: Person, words: str, where: str) -> None:
    person.run_yaml()
    (person.home / "loop").symlink_to(person.home / "loop")
    assert where in person.says(*words.format(where).split(), exit_code=2)


def test_a_missing_secret_is_named_before_anything_is_sent(person: Person) -> None:
    path = person.run_yaml("secrets: [HF_TOKEN, OTHER]\n")
    said = person.says("submit", path, exit_code=2, OTHER="x")
    assert f"{path}, line 5, secrets: HF_TOKEN" in said
    assert "OTHER" not in said
    assert not (person.home / "store").exists()


def test_a_deadline_that_has_passed_is_refused(person: Person) -> None:
    said = person.says("submit", person.run_yaml("deadline: 2020-01-01T00:00:00Z\n"), exit_code=2)
    assert "has passed" in said


def test_a_store_where_a_file_is_in_the_way_is_said(person: Person) -> None:
    (person.home / "plain").write_text("")
    person.fleet(f"store: file://{person.home}/plain\nproviders: [{{kind: local}}]\n")
    process = person.start("ls")
    _, said = process.communicate(timeout=60)
    assert process.returncode in (2, 3), said
    assert "Traceback" not in said


def test_a_full_disk_under_the_output_is_said(person: Person) -> None:
    person.has_run("a")
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        assert "no space left" in person.says("ls", exit_code=3, stdout=full)
    finally:
        os.close(full)


def test_nobody_reading_on_is_no_failure(person: Person) -> None:
    for number in range(50):
        person.has_run(f"run-{number}")
    process = person.start("ls")
    assert process.stdout
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr
    assert process.stderr.read() == ""


def test_ctrl_c_leaves_at_once_with_130(person: Person) -> None:
    person.has_run("a")
    packed = zstandard.ZstdCompressor().compress(b"step 1\n")
    asyncio.run(open_store(f"file://{person.home}/store").put(log_key("a", 1, "log", 0), packed))
    process = person.start("logs", "a", "--follow")
    assert process.stdout
    assert process.stdout.readline() == "--- attempt 1 ---\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in said
