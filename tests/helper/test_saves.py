"""A save is whole and of one moment, whoever is slow, dies or runs out of memory meanwhile."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from vl_agent import archive, writer  # noqa: E402
from vl_agent.torch import Checkpointer, outbox  # noqa: E402


class Weights:
    """Whatever is to be saved, as it is."""

    def __init__(self, **found: Any) -> None:
        self.found: dict[str, Any] = found

    def state_dict(self) -> dict[str, Any]:
        return self.found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.found = state


class Desk:
    """Checkpointers over one folder, and what they told."""

    def __init__(self, folder: Path) -> None:
        self.ckpt, self.control = folder / "ckpt", folder / "control"
        self.control.mkdir()
        self._open: list[Checkpointer] = []

    def checkpointer(self, weights: Weights, **options: Any) -> Checkpointer:
        self._open.append(Checkpointer(self.ckpt, model=weights, **{"every_steps": 1, "keep": 9, **options}))
        return self._open[-1]

    def close(self) -> None:
        while self._open:
            self._open.pop().close()

    def loaded(self) -> tuple[int, dict[str, Any]]:
        """What a training that starts now has."""
        self.close()
        weights = Weights()
        step = self.checkpointer(weights).restore()
        return step, weights.found

    def saved(self) -> list[int]:
        return sorted(int(path.name[5:14]) for path in writer.saves(self.ckpt))

    def told(self, word: str) -> list[Any]:
        lines = [json.loads(line) for line in (self.control / "progress.jsonl").read_text().splitlines()]
        return [line[word] for line in lines if word in line]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    found = Desk(tmp_path)
    monkeypatch.setenv("VL_CONTROL", str(found.control))
    yield found
    found.close()


def writers_pid() -> int:
    """The process that writes for this one."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            parent = int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"VL_WRITER=1" in Path("/proc", name, "environ").read_bytes():
                return int(name)
        except (OSError, IndexError):
            continue
    raise AssertionError("nobody writes")


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_every_kind_of_tensor_comes_back_as_torch_save_would_bring_it(desk: Desk) -> None:
    wide = torch.arange(20.0).reshape(4, 5)
    state = {
        "wide": wide,
        "turned": wide.t(),
        "row": wide[2],
        "half": torch.randn(33).bfloat16(),
        "eighth": torch.randn(16).to(torch.float8_e4m3fn),
        "whole": torch.arange(5),
        "yes": torch.tensor([True, False]),
        "complex": torch.randn(3, dtype=torch.complex64),
        "none": torch.zeros(0, 3),
        "one": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "large": torch.randn(3_000_001),
    }
    desk.checkpointer(Weights(**state, words=["a", 1, None, {"b": 2.0}])).save(3)
    step, found = desk.loaded()
    assert step == 3
    assert found["words"] == ["a", 1, None, {"b": 2.0}]
    for name, tensor in state.items():
        assert (found[name].dtype, found[name].shape, found[name].stride()) == (
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
        )
        assert found[name].reshape(-1).view(torch.uint8).equal(tensor.detach().reshape(-1).view(torch.uint8)), name
    found["wide"][2, 0] = -1.0
    assert found["row"][0] == -1.0, "views of one memory are saved as views of one memory"


def test_what_changes_after_a_capture_is_not_in_it(desk: Desk) -> None:
    weights = Weights(a=torch.zeros(2_000_000), b=torch.zeros(7))
    ckpt = desk.checkpointer(weights)
    for step in range(1, 9):
        weights.found["a"].fill_(step)
        weights.found["b"].fill_(step)
        ckpt.save(step)
    desk.close()
    assert desk.saved() == list(range(1, 9))
    for path in writer.saves(desk.ckpt):
        state = torch.load(path, weights_only=True)
        assert {float(part) for tensor in state["parts"]["model"].values() for part in tensor.unique()} == {
            state["step"]
        }


def test_a_flipped_bit_is_found_or_changes_nothing(desk: Desk) -> None:
    state = {"a": torch.arange(300.0), "b": torch.ones(4, 4)}
    desk.checkpointer(Weights(**state)).save(1)
    desk.close()
    path = desk.ckpt / "step-000000001.pt"
    whole = path.read_bytes()
    found = 0
    for at in range(0, len(whole), 23):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        if archive.damage(path):
            found += 1
            continue
        try:
            loaded = torch.load(path, weights_only=True)["parts"]["model"]
        except (
            RuntimeError,
            ValueError,
            pickle.UnpicklingError,
        ):  # zip's own directory: torch is more exact there than Python
            continue
        assert all(loaded[name].equal(tensor) for name, tensor in state.items()), at
    assert found > len(whole) / 23 / 2


def test_a_damaged_newest_one_is_passed_over(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2):
        desk.checkpointer(Weights(a=torch.full((5000,), float(step)))).save(step)
        desk.close()
    newest = desk.ckpt / "step-000000002.pt"
    whole = newest.read_bytes()
    at = whole.index(torch.full((5000,), 2.0).numpy().tobytes()) + 9999
    newest.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    step, found = desk.loaded()
    assert (step, found["a"].unique().tolist()) == (1, [1.0])
    assert "data/1 has not the CRC it was written with" in capfd.readouterr().err


@pytest.mark.parametrize("cut", [1, 22, 200, 10_000])
def test_a_cut_file_is_found(desk: Desk, cut: int) -> None:
    desk.checkpointer(Weights(a=torch.arange(5000.0))).save(1)
    desk.close()
    newest = desk.ckpt / "step-000000001.pt"
    newest.write_bytes(newest.read_bytes()[:-cut])
    assert archive.damage(newest)
    assert desk.loaded()[0] == 0


def test_a_capture_does_not_wait_for_a_writer_that_stands_still(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    weights = Weights(a=torch.zeros(1000))
    ckpt = desk.checkpointer(weights)
    ckpt.step(1)
    pid = writers_pid()
    ckpt.wait()
    os.kill(pid, signal.SIGSTOP)
    try:
        for step in range(2, 8):
            weights.found["a"].fill_(step)
            ckpt.step(step)
        assert desk.saved() == [1]
        assert desk.told("skipped") == [4], "both buffers are taken: one save is late, said once"
        assert capfd.readouterr().err.count("both buffers") == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    ckpt.wait()
    assert desk.saved() == [1, 2, 3]
    assert desk.told("saved") == [f"step-{step:09d}.pt" for step in (1, 2, 3)]
    ckpt.step(8)
    ckpt.wait()
    assert desk.saved() == [1, 2, 3, 8]
    assert desk.loaded()[1]["a"].unique().tolist() == [7.0]


@pytest.mark.parametrize("ends_by", ["notice", "last step"])
def test_at_the_end_the_last_save_waits_for_no_writer_and_the_training_for_all(desk: Desk, ends_by: str) -> None:
    ckpt = desk.checkpointer(Weights(a=torch.zeros(1000)), total_steps=4)
    ckpt.step(1)
    ckpt.wait()
    pid = writers_pid()
    os.kill(pid, signal.SIGSTOP)
    ckpt.step(2)
    ckpt.step(3)  # both buffers are taken by now

    def wake_it() -> None:
        try:
            until(lambda: desk.saved() == [1, 4])
            seen.append(4)
        finally:
            os.kill(pid, signal.SIGCONT)

    seen: list[int] = []
    waker = threading.Thread(target=wake_it)
    waker.start()
    if ends_by == "notice":
        (desk.control / "notice.json").write_text('{"why": "notice"}')
        with pytest.raises(SystemExit) as stopped:
            ckpt.step(4)
        assert stopped.value.code == 75
        assert desk.told("stopped") == [4]
    else:
        ckpt.step(4)
    waker.join()
    assert (seen, desk.saved()) == ([4], [1, 2, 3, 4])


def test_a_writer_that_dies_costs_its_save_and_nothing_else(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    weights = Weights(a=torch.zeros(3_000_000))
    ckpt = desk.checkpointer(weights)
    ckpt.save(1)
    ckpt.wait()
    pid = writers_pid()
    os.kill(pid, signal.SIGSTOP)
    weights.found["a"].fill_(2)
    ckpt.save(2)
    os.kill(pid, signal.SIGKILL)
    ckpt.wait()
    assert desk.told("skipped") == [2]
    assert "step 2 is not saved: the process that wrote it ended (status -9)" in capfd.readouterr().err
    weights.found["a"].fill_(3)
    ckpt.step(3)
    ckpt.wait()
    assert writers_pid() != pid
    assert desk.saved() == [1, 3]
    assert desk.loaded()[1]["a"].unique().tolist() == [3.0]


def test_the_last_save_comes_although_every_writer_dies(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_START", "import sys; sys.exit(3)")
    ckpt = desk.checkpointer(Weights(a=torch.ones(1000)), total_steps=5)
    for step in range(1, 6):
        ckpt.step(step)
    assert desk.saved()[-1] == 5
    assert desk.loaded()[1]["a"].unique().tolist() == [1.0]


def test_state_that_grows_and_shrinks_is_saved_as_it_is(desk: Desk) -> None:
    weights = Weights(a=torch.zeros(10))
    ckpt = desk.checkpointer(weights)
    for step, count in enumerate((10, 3_000_000, 5, 6_000_000, 1000), 1):
        weights.found = {"a": torch.full((count,), float(step)), **({"b": torch.ones(step)} if step % 2 else {})}
        ckpt.save(step)
    desk.close()
    for step, count in enumerate((10, 3_000_000, 5, 6_000_000, 1000), 1):
        found = torch.load(desk.ckpt / f"step-{step:09d}.pt", weights_only=True)["parts"]["model"]
        assert (found["a"].numel(), found["a"].unique().tolist()) == (count, [float(step)])
        assert ("b" in found) == bool(step % 2)


@pytest.mark.parametrize(("left", "how"), [(30 << 20, "one save at a time"), (1 << 20, "each save stops the training")])
def test_where_memory_is_short_it_saves_with_less_and_says_so_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], left: int, how: str
) -> None:
    monkeypatch.setattr(outbox, "room", lambda: left)
    weights = Weights(a=torch.zeros(4_000_000))  # 16 MB: twice that is more than three quarters of 30 MiB
    ckpt = desk.checkpointer(weights)
    for step in (1, 2, 3):
        weights.found["a"].fill_(step)
        ckpt.save(step)
    desk.close()
    said = [line for line in capfd.readouterr().err.splitlines() if "of memory are left" in line]
    assert how in said[-1]
    assert len(said) == (1 if left > (16 << 20) else 2)
    assert desk.saved() == [1, 2, 3]
    for step in (1, 2, 3):
        state = torch.load(desk.ckpt / f"step-{step:09d}.pt", weights_only=True)
        assert state["parts"]["model"]["a"].unique().tolist() == [float(step)]


def test_a_disk_that_is_full_does_not_end_the_training_until_the_last_step(desk: Desk) -> None:
    ckpt = desk.checkpointer(Weights(a=torch.zeros(1000)), total_steps=3)
    ckpt.step(1)
    ckpt.wait()
    desk.ckpt.rename(desk.ckpt.with_name("moved"))
    desk.ckpt.write_text("no folder")  # every write fails
    ckpt.step(2)
    until(lambda: (ckpt._outbox.has_room, desk.told("skipped"))[1])
    with pytest.raises(OSError):
        ckpt.step(3)
    desk.ckpt.unlink()
    desk.ckpt.with_name("moved").rename(desk.ckpt)
    assert desk.saved() == [1]


def test_state_that_could_not_be_read_back_is_refused_at_the_first_step(desk: Desk) -> None:
    ckpt = desk.checkpointer(Weights(a=torch.zeros(3), path=Path("x")))
    with pytest.raises(TypeError, match="can't be restored safely"):
        ckpt.step(1)
    assert desk.saved() == []


def test_a_loss_that_is_no_number_is_told_apart_from_one_that_is_not_known(desk: Desk) -> None:
    from vl_agent import control, told

    ckpt = desk.checkpointer(Weights(a=torch.zeros(3)), every_steps=99)
    for step, loss in enumerate((0.5, None, float("nan"), torch.tensor(float("-inf"))), 1):
        ckpt.step(step, loss)
    steps = [word for word in told.read(control.ProgressReader(desk.control)) if isinstance(word, told.Step)]
    assert [(word.loss, word.nonfinite) for word in steps] == [(0.5, ""), (None, ""), (None, "nan"), (None, "-inf")]


def test_whatever_moment_a_training_or_its_writer_is_killed_at_all_checkpoints_are_whole(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed.py")
    seed = time.time_ns() % 10_000
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "ckpt"), str(seed)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    assert len(done.stdout.splitlines()) == 10
