"""How a training command ended, and that nothing of it is left running."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vl_agent import hide, processes, told
from vl_agent import training as trainings
from vl_agent.control import STOPPED_EXIT, ProgressReader
from vl_agent.protocol import Cause
from vl_agent.training import Ended, Training, classify

from tests.agent.held import Held
from tests.agent.protected import is_alive, until

TRACEBACK = "Traceback (most recent call last):\n  File \"x.py\"\nKeyError: 'lr'\n"
CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n"
FULL = "OSError: [Errno 28] No space left on device\n"

TABLE: list[tuple[int, str, str, Cause, str]] = [
    # status, asked, log                     cause            what is said
    (0, "", "", "finished", "exit status 0"),
    (1, "", TRACEBACK, "user_error", "exit status 1: KeyError: 'lr'"),
    (2, "", "", "user_error", "exit status 2: it printed nothing"),
    (127, "", "sh: 1: pyhton: not found\n", "user_error", "exit status 127: sh: 1: pyhton: not found"),
    (
        1,
        "",
        CUDA,
        "out_of_memory",
        "exit status 1: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
    ),
    (1, "", FULL, "host_fault", "exit status 1: OSError: [Errno 28] No space left on device"),
    (STOPPED_EXIT, "", "", "notice", "saved and stopped as told"),
    (-9, "", "", "killed", "killed by SIGKILL: the machine's memory may have run out"),
    (137, "", "", "killed", "killed by SIGKILL: the machine's memory may have run out"),
    (-11, "", "", "killed", "killed by SIGSEGV"),
    (139, "", "", "killed", "killed by SIGSEGV"),
    (-7, "", "", "killed", "killed by SIGBUS"),
    (134, "", "", "killed", "killed by SIGABRT"),
    (143, "", "", "killed", "killed by SIGTERM"),
    (-64, "", "", "killed", "killed by SIGRTMAX"),
    (255, "", "", "user_error", "exit status 255: it printed nothing"),
    (0, "stopped by Ctrl-C", "", "stopped", "exit status 0: stopped by Ctrl-C"),
    (1, "stopped by Ctrl-C", TRACEBACK, "stopped", "exit status 1: stopped by Ctrl-C"),
    (-15, "notice", "", "notice", "ended by SIGTERM: notice"),
    (0, "notice", "", "notice", "exit status 0: notice"),
    (-9, "fenced", "", "fenced", "ended by SIGKILL: fenced"),
]


@pytest.mark.parametrize(("status", "asked", "log", "cause", "detail"), TABLE)
def test_the_cause_of_an_end(status: int, asked: str, log: str, cause: Cause, detail: str) -> None:
    ended = classify(status, asked, log)
    assert (ended.cause, ended.detail) == (cause, detail)
    assert (ended.code is None) != (ended.signal is None)


@given(st.integers(-64, 255), st.sampled_from(["", "notice", "fenced", "x"]), st.text(max_size=300))
def test_every_end_has_a_cause_in_printable_words(status: int, asked: str, log: str) -> None:
    ended = classify(status, asked, log)
    assert ended.detail.isprintable()
    assert len(ended.detail) < 300
    assert (ended.cause == "finished") == (status == 0 and not asked), "no other end counts as finished"


# ---------------------------------------------------------------------------------------------- nothing is left running


TREE = """
import os, signal, subprocess, sys, time
kind, *children = sys.argv[1:]
for child in children:
    env = {**os.environ, **({"VL_WRITER": "1"} if child == "writer" else {})}
    subprocess.Popen([sys.executable, sys.argv[0], child], env=env)
if kind == "daemon":
    if os.fork(): os._exit(0)
    os.setsid()
if kind in ("deaf", "writer"):
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(kind + ".part", "w").write(str(os.getpid()))
os.rename(kind + ".part", kind)
while kind == "writer" and not os.path.exists("deaf"):
    time.sleep(0.01)
while kind != "writer" or os.path.exists("/proc/" + open("deaf").read()):
    time.sleep(0.01)
open("written", "w").close()
"""


async def family_of(training: Training, folder: Path, *children: str) -> list[int]:
    """A started training and its children: a plain one, a daemon, one that shuts its ears to SIGTERM."""
    (folder / "tree.py").write_text(TREE)
    await training.start(f"{sys.executable} tree.py leader {' '.join(children)}; true", folder, os.environ)
    names = ("leader", *children)
    await until(lambda: all((folder / name).exists() for name in names))
    pids = [int((folder / name).read_text()) for name in names]
    assert all(is_alive(pid) for pid in pids)
    return pids


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "training.json", tmp_path / "log")


async def test_told_to_end_it_ends_with_all_that_it_started(training: Training, tmp_path: Path) -> None:
    pids = await family_of(training, tmp_path, "child", "daemon", "deaf")
    await training.end("stopped by a person", grace_s=0.3)
    assert (await training.wait()).cause == "stopped"
    assert [pid for pid in pids if is_alive(pid)] == []


async def test_when_it_has_ended_by_itself_what_it_left_is_ended(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "LEFT_GRACE_S", 0.3)
    pids = await family_of(training, tmp_path, "child", "daemon", "deaf")
    os.kill(pids[0], signal.SIGKILL)
    assert await training.wait() == Ended(0, None, "finished", "exit status 0"), "its shell said so"
    assert [pid for pid in pids if is_alive(pid)] == []


async def test_a_writer_whose_trainer_was_killed_finishes_its_save(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it takes until all others are ended, and then a moment."""
    monkeypatch.setattr(trainings, "LEFT_GRACE_S", 0.3)
    pids = await family_of(training, tmp_path, "deaf", "writer")
    os.kill(pids[0], signal.SIGKILL)
    await training.wait()
    assert (tmp_path / "written").exists()
    assert [pid for pid in pids if is_alive(pid)] == []


async def test_told_to_end_it_does_not_wait_for_a_writer_past_the_grace(training: Training, tmp_path: Path) -> None:
    pids = await family_of(training, tmp_path, "writer")  # of whom it waits for there is none: for ever
    await training.end("stopped by a person", grace_s=0.3)
    await training.wait()
    assert [pid for pid in pids if is_alive(pid)] == []


async def test_what_a_dead_supervisor_left_is_found_by_its_record(training: Training, tmp_path: Path) -> None:
    pids = await family_of(training, tmp_path, "child", "daemon")
    assert await trainings.end_former(tmp_path / "training.json") is True
    assert [pid for pid in pids if is_alive(pid)] == []
    assert await trainings.end_former(tmp_path / "training.json") is False
    await training.wait()


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"boot": 1}', b'"x"', None])
async def test_a_garbled_record_ends_nobody(tmp_path: Path, record: bytes | None) -> None:
    if record is not None:
        (tmp_path / "training.json").write_bytes(record)
    assert await trainings.end_former(tmp_path / "training.json") is False


async def test_a_record_of_before_the_machine_was_started_names_nobody(training: Training, tmp_path: Path) -> None:
    """Pids begin anew: whoever has them now is another."""
    (pid,) = await family_of(training, tmp_path)
    record = processes.Family(**json.loads((tmp_path / "training.json").read_bytes()))
    assert pid in processes.members(record)
    assert processes.members(replace(record, boot="another")) == []
    assert processes.members(replace(record, leader_start=record.leader_start + 1, marker="another")) == []
    await training.end("the test is over", grace_s=2)
    await training.wait()


# ------------------------------------------------------------------------ secrets, what is told


@pytest.mark.parametrize(
    ("text", "secrets", "shown"),
    [
        ("key=hunter2!", ["hunter2"], "key=***!"),
        ("abc abcd", ["abc", "abcd"], "*** ***"),
        ("x", [""], "x"),
        ("begin AAAA and BBBB", ["-----\nAAAA\nBBBB\n"], "begin *** and ***"),
        ("a == b", ["LONGLINE\n=="], "a == b"),
    ],
)
def test_secrets_are_hidden(text: str, secrets: list[str], shown: str) -> None:
    assert hide.without(text, secrets) == shown


async def test_a_secret_in_the_last_line_is_hidden_in_how_it_ended(tmp_path: Path) -> None:
    training = Training(tmp_path / "training.json", tmp_path / "log", ["hunter2"])
    await training.start('echo "bad token $TOKEN"; exit 1', tmp_path, {**os.environ, "TOKEN": "hunter2"})
    ended = await training.wait()
    assert ended.detail == "exit status 1: bad token ***"
    assert "hunter2" not in (tmp_path / "training.json").read_text()


LINES = [
    (b'{"step": 1, "loss": 0.5, "total": 9}', told.Step(1, 0.5, 9)),
    (b'{"step": 1, "loss": null}', told.Step(1, None, None)),
    (b'{"step": 1, "loss": NaN}', told.Step(1, None, None)),
    (b'{"step": 1, "loss": 1e999}', told.Step(1, None, None)),
    (b'{"step": 1, "loss": ' + b"9" * 400 + b"}", told.Step(1, None, None)),
    (b'{"step": 1, "loss": true}', told.Step(1, None, None)),
    (b'{"step": 1, "loss": null, "nonfinite": "nan"}', told.Step(1, None, None, "nan")),
    (b'{"step": 1, "loss": 1, "nonfinite": "-inf"}', told.Step(1, None, None, "-inf")),
    (b'{"step": 1, "loss": 1, "nonfinite": ["nan"]}', told.Step(1, 1.0, None)),
    (b'{"saved": "a.pt", "step": 1, "took_s": 0.1}', told.Save("a.pt", 1, 0.1)),
    (b'{"saved": "a.pt", "step": 1, "took_s": 0.1, "stall_s": 0.01}', told.Save("a.pt", 1, 0.1, 0.01)),
    (b'{"skipped": 3, "why": "busy"}', told.Skipped(3, "busy")),
    (b'{"skipped": -3, "why": "busy"}', None),
    (b'{"skipped": 3, "why": ["x"]}', told.Skipped(3, "['x']")),
    (b'{"stopped": 3, "why": "notice"}', told.Stopped(3)),
    (b'{"stopped": "3"}', None),
    (b'{"helper": 1, "pid": 7}', told.Helper()),
    (b'{"step": -1, "loss": 1}', None),
    (b'{"step": 1e3, "loss": 1}', None),
    (b'{"step": true, "loss": 1}', None),
    (b'{"step": 1000000000000, "loss": 1}', None),
    (b'{"saved": 5}', None),
    (b"[" * 70_000, None),
    (b"[" * 3000, None),
    (b"not json", None),
    (b"\xff", None),
    (b"[]", None),
    (b"", None),
]


@pytest.mark.parametrize(("line", "word"), LINES)
def test_what_the_training_tells_is_checked(tmp_path: Path, line: bytes, word: object) -> None:
    (tmp_path / "progress.jsonl").write_bytes(line + b'\n{"step": 2, "loss": 2}\n')
    assert list(told.read(ProgressReader(tmp_path))) == [*([word] if word else []), told.Step(2, 2.0, None)]


def test_a_script_that_tells_without_end_is_read_in_turns(tmp_path: Path) -> None:
    """Steps of no work, told many thousand times a second: who reads on until there is no more hears nothing else."""
    (tmp_path / "progress.jsonl").write_bytes(b'{"step": 1, "loss": 1}\n' * 50_000)
    reader, turns = ProgressReader(tmp_path), []
    while not turns or reader.behind:
        turns.append(len(list(told.read(reader))))
    assert sum(turns) == 50_000
    assert max(turns) < 20_000


async def test_what_was_told_up_to_the_end_is_journaled_however_much_it_was(tmp_path: Path) -> None:
    held = Held(tmp_path)
    await held.begin("cat flood >> $VL_CONTROL/progress.jsonl")
    (held.work / "flood").write_bytes(b'{"step": 1, "loss": 1}\n' * 50_000)
    await held.attempt().run("box-1")
    assert (tmp_path / "epoch-1" / "journal.jsonl").read_text().count('"kind":"step"') == 50_000


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), max_size=20))
def test_cut_anywhere_every_word_is_read_once(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    folder = tmp_path_factory.mktemp("told")
    body = b"".join(b'{"step": %d, "loss": 1}\n' % n for n in range(8))
    reader, at, words = ProgressReader(folder), 0, []
    for cut in [*cuts, len(body)]:
        (folder / "progress.jsonl").write_bytes(body[: at + cut])
        at += cut
        words += list(told.read(reader))
    assert [word.step for word in words if isinstance(word, told.Step)] == list(range(8))
