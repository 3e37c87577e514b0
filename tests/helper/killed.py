"""Kills trainings, and the processes that write for them, at moments that the files show; run by the tests as a process
of its own. After each kill every checkpoint must be whole and of one step. Prints one line for each kill.

A training here is a child whose tensors all hold the number of the step; it says when it has handed a save over.
"""

import os
import random
import re
import select
import signal
import sys
import time
from pathlib import Path

import torch
from vl_agent import archive, writer
from vl_agent.torch import Checkpointer

TENSORS, SIZE = 6, 1 << 19
LIMIT_S = 60


class Weights:
    def __init__(self):
        self.tensors = [torch.zeros(SIZE) for _ in range(TENSORS)]

    def state_dict(self):
        return {"tensors": self.tensors}

    def load_state_dict(self, state):
        assert len({float(part) for tensor in state["tensors"] for part in tensor[:: SIZE // 8]}) == 1
        self.tensors = state["tensors"]


def train(folder, said):
    weights = Weights()
    ckpt = Checkpointer(folder, model=weights, every_steps=1, keep=2)
    step = ckpt.restore()
    while True:
        step += 1
        for tensor in weights.tensors:
            tensor.fill_(step)
        if ckpt.should_save(step):
            ckpt.save(step)
            os.write(said, b"%d\n" % step)
        time.sleep(0.002)


class Training:
    def __init__(self, folder):
        self.said, end = os.pipe()
        self.handed = []
        self.pid = os.fork()
        if self.pid == 0:
            try:
                train(folder, end)
            finally:
                os._exit(1)
        os.close(end)

    def hear(self):
        while select.select([self.said], [], [], 0)[0] and (words := os.read(self.said, 4096)):
            self.handed += [int(word) for word in words.split()]
        return self.handed

    def writer(self):
        for name in os.listdir("/proc"):
            if name.isdecimal():
                try:
                    parent = int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
                    if parent == self.pid and b"VL_WRITER=1" in Path("/proc", name, "environ").read_bytes():
                        return int(name)
                except (OSError, IndexError):
                    continue
        raise AssertionError("nobody writes")

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.hear()
        os.close(self.said)


def until(what):
    deadline = time.monotonic() + LIMIT_S
    while not what():
        if time.monotonic() > deadline:
            sys.exit(f"did not come within {LIMIT_S} s")
        time.sleep(0.0005)


def temporary(folder):
    return [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def size_of(paths):
    try:
        return max((path.stat().st_size for path in paths), default=0)
    except FileNotFoundError:
        return 0


MOMENTS = {
    "handed over": lambda folder, training: len(training.hear()) >= 2,
    "file begun": lambda folder, training: temporary(folder),
    "file half written": lambda folder, training: size_of(temporary(folder)) > TENSORS * SIZE * 2,
    "file whole, not renamed": lambda folder, training: size_of(temporary(folder)) > TENSORS * SIZE * 4,
    "renamed": lambda folder, training: writer.saves(folder),
}


def check(folder, newest):
    """Nobody writes any more: what is there?"""

    def alone():
        with writer.writing(folder, alone=True) as lock:
            return lock is not None

    until(alone)
    for path in writer.saves(folder):
        assert archive.damage(path) == "", path
        found = torch.load(path, weights_only=True)
        step = int(re.findall(r"\d+", path.name)[0])
        assert found["step"] == step
        assert all(bool((tensor == step).all()) for tensor in found["parts"]["model"]["tensors"]), path
    if newest:
        assert writer.saves(folder)[0].name >= f"step-{newest:09d}.pt", (newest, writer.saves(folder))
        assert temporary(folder) == []


def one_round(folder, come, victim, pause):
    training = Training(folder)
    until(training.hear)
    until(lambda: come(folder, training))
    time.sleep(pause)
    if victim == "writer":
        os.kill(training.writer(), signal.SIGKILL)
        saved = len(training.hear())
        until(lambda: len(training.hear()) > saved + 3)  # it trains and saves on
    training.end()
    check(folder, training.handed[-1])


def main():
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    chance = random.Random(seed)
    folder.mkdir(exist_ok=True)
    for victim in ("trainer", "writer"):
        for moment, come in MOMENTS.items():
            one_round(folder, come, victim, chance.random() * 0.02)
            print(f"{victim} killed: {moment}", flush=True)


if __name__ == "__main__":
    main()
