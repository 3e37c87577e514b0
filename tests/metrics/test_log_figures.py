"""Figures in a training's output, in the forms that frameworks print them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vl_agent.metrics.figures import read
from vl_agent.metrics.lines import MOST_LINE, Lines, plain
from vl_agent.metrics.progress import Output, Progress

HF_5 = "{'loss': '4.869', 'grad_norm': '1.064', 'learning_rate': '0.0008', 'epoch': '0.3125'}"
HF_4 = "{'loss': 4.869, 'grad_norm': 1.064, 'learning_rate': 8e-04, 'epoch': 0.31}"
HF_END = (
    "{'train_runtime': '0.165', 'train_samples_per_second': '484.9', 'train_steps_per_second': '121.2',"
    " 'train_loss': '4.851', 'epoch': '1.25'}"
)
DEEPSPEED = (
    "[2026-01-01 10:00:00,123] [INFO] [logging.py:96:log_dist] [Rank 0] step=10, skipped=0, lr=[0.001],"
    " mom=[(0.9, 0.999)]"
)
DEEPSPEED_SPEED = (
    "epoch=0/micro_step=20/global_step=10, RunningAvgSamplesPerSec=12.5, CurrSamplesPerSec=13.5,"
    " MemAllocated=1.2GB, MaxMemAllocated=2.2GB"
)
MEGATRON = (
    " [2026-01-01 10:00:00] iteration        5/     100 | consumed samples:         1280 | elapsed time per iteration"
    " (ms): 512.3 | throughput per GPU (TFLOP/s/GPU): 98.1 | learning rate: 1.000000E-04 | global batch size:   256 |"
    " lm loss: 1.02E+01 | loss scale: 1.0 | grad norm: 1.2 | number of skipped iterations:   0 |"
)
TORCHTITAN = (
    "\x1b[31mstep:  1  \x1b[32mloss:  8.1234  \x1b[33mgrad_norm:  1.2345  \x1b[34mmemory:  1.23GiB(1.29%)  "
    "\x1b[36mtps: 12,345  \x1b[35mtflops: 1.23  mfu: 0.12%\x1b[39m"
)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (HF_5, {"loss": 4.869, "grad_norm": 1.064, "lr": 0.0008}),
        (HF_4, {"loss": 4.869, "grad_norm": 1.064, "lr": 0.0008}),
        (DEEPSPEED, {"step": 10, "lr": 0.001}),
        (DEEPSPEED_SPEED, {"step": 10, "throughput": 13.5, "unit": "samples/s"}),
        (MEGATRON, {"step": 5, "total": 100, "loss": 10.2, "lr": 1e-4, "grad_norm": 1.2, "throughput": 98.1}),
        (TORCHTITAN, {"step": 1, "loss": 8.1234, "grad_norm": 1.2345, "throughput": 12345.0, "unit": "tokens/s"}),
        ("1|10|Loss: 1.2345: 10%|#         | 10/100 [00:10<01:30,  1.00s/it]", {"step": 10, "loss": 1.2345}),
        (
            "Step 10 | loss:1.23 lr:2e-05 tokens_per_second_per_gpu:1234",
            {"step": 10, "loss": 1.23, "lr": 2e-5, "throughput": 1234.0},
        ),
        ("step=10 loss=3.21 lr=1e-4", {"step": 10, "loss": 3.21, "lr": 1e-4}),
        ("iter 10: loss 3.2190, time 51.1ms, mfu 3.2%", {"step": 10, "loss": 3.219}),
        ("step 250: train loss 1.2345, val loss 2.3456", {"step": 250, "loss": 1.2345}),
        ("Epoch 1, Step 20/400, Loss: 2.345, LR: 0.0001", {"step": 20, "total": 400, "loss": 2.345, "lr": 1e-4}),
        ('{"step": 10, "loss": 3.21, "lr": NaN}', {"step": 10, "loss": 3.21, "lr": None}),
        ("step 12/300 loss nan", {"step": 12, "total": 300, "loss": None}),
        ("Epoch: [2][  10/5005]\tTime  0.123 ( 0.2)\tLoss 6.9e+00 (7.0e+00)", {"step": 10020, "loss": 6.9}),
        ("train:  10%|#  | 3/30 [00:00<?, ?it/s, loss=0.25, lr=0.001]", {"loss": 0.25, "lr": 0.001, "step": None}),
        (" 25%|##5  | 5/20 [00:02<00:08,  2.00s/it]", {"throughput": 0.5, "unit": "steps/s"}),
    ],
)
def test_the_usual_forms_are_understood(line: str, said: dict[str, Any]) -> None:
    found = vars(read(plain(line)))
    assert {name: found[name] for name in said} == pytest.approx(said)


@pytest.mark.parametrize(
    "line",
    [
        HF_END, "{'eval_loss': 3.1, 'eval_runtime': 1.0, 'epoch': 1.0}", "saved at step 500", "Resuming from step 400",
        "  Total optimization steps = 300", "loss.py:12: step 3 of the recipe", "",
        "Downloading: 12%|#  | 1.2M/3.4M [00:00<00:00, 1MB/s]",
    ],
)  # fmt: skip
def test_what_is_no_figure_of_a_step_says_nothing(line: str) -> None:
    found = read(plain(line))
    assert (found.step, found.loss, found.bar) == (None, None, None)


# -- which counter is the step ---------------------------------------------------------------------------------------


def seen(text: str) -> Progress:
    output = Output()
    output.feed(text.encode())
    return output.now


def test_a_bar_of_transformers_gives_the_step_and_its_lines_the_loss() -> None:
    bar = "\r 25%|██▌       | 5/20 [00:00<00:00, 162.85it/s]"
    blank = "\r" + " " * 46 + "\r\r"
    inner = "\rWriting model shards: 100%|####| 1/1 [00:00<00:00, 412.78it/s]\x1b[A"
    now = seen("\r  0%|   | 0/20 [00:00<?, ?it/s]" + bar + blank + HF_5 + "\n" + bar + inner)
    assert (now.step, now.total, now.loss, now.lr) == (5, 20, 4.869, 0.0008)


def test_an_evaluation_in_between_is_no_step_but_moves() -> None:
    training = "\r 25%|##5    | 5/20 [00:00<00:00, 162.85it/s]\n"
    before = seen(training)
    now = seen(training + "\r 50%|##### | 300/625 [00:01<00:01, 99it/s]\r 60%|##### | 375/625 [00:01<00:01, 99it/s]\r")
    assert now.step == before.step == 5
    assert now.moves > before.moves


def test_a_bar_of_epochs_around_gives_way_to_the_steps_inside() -> None:
    now = seen(
        "\rruns:   0%|    | 0/3 [00:00<?, ?it/s]\r  0%|    | 0/3 [00:00<?, ?it/s]\n 10%|#| 50/500 [00:01<00:09, 50it/s]"
    )
    assert (now.step, now.total) == (50, 500)


def test_a_bar_that_begins_anew_with_each_epoch_goes_on_counting() -> None:
    bars = [f"\r{100 * n // 8}%|#| {n}/8 [00:00<00:00, 9it/s]" for n in range(9)]
    now = seen("".join(bars) + "\n" + "".join(bars[:4]))
    assert (now.step, now.total) == (8 + 3, None)


@pytest.mark.parametrize(("title", "step"), [("Epoch 2:", 17), ("Epoch 2/10:", 9)])
def test_epochs_in_a_title_place_the_bar(title: str, step: int) -> None:
    assert seen(f"\r{title}  12%|#2        | 1/8 [00:00<00:00, 37.46it/s, loss=0.079]").step == step


def test_a_step_in_words_counts_more_than_a_bar() -> None:
    now = seen("\r 10%|#| 50/500 [00:01<00:09, 50it/s]\nstep=7 loss=1.5\n\r 11%|#| 55/500 [00:01<00:09, 50it/s]")
    assert (now.step, now.loss) == (7, 1.5)


def test_processes_that_print_the_same_steps_a_little_apart_do_not_make_it_fall() -> None:
    now = seen("step 9/500 loss 1.0\nstep 8/500 loss 1.0\nstep 10/500 loss 1.0\nstep 9/500 loss 1.0\n")
    assert now.step == 10


# -- bytes -----------------------------------------------------------------------------------------------------------

PIECES = [
    b"\r", b"\n", b"\r\n", "██▌".encode(), b"\x1b[31m", b"\x1b]0;title\x07", b"\xff", b"  5/20 [00:00<00:00, 9it/s]",
    b" 25%|##", b"|", b"step=3 loss=1.5", b"step 4", b"{'loss': '4.8'}", b"]", b"train:", b'{"step": 5}',
    b"1|2|Loss: 3",
]  # fmt: skip
output_bytes = st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=40).map(b"".join)


@given(output_bytes, st.lists(st.integers(0, 200), max_size=8))
def test_how_the_bytes_were_cut_makes_no_difference(data: bytes, cuts: list[int]) -> None:
    whole, pieces = Output(), Output()
    lines, cut_lines = Lines(), Lines()
    whole.feed(data)
    found, cut_found = lines.feed(data), []
    at = 0
    for to in [*sorted(cuts), len(data)]:
        pieces.feed(data[at:to])
        _ = pieces.now  # looking changes nothing
        cut_found += cut_lines.feed(data[at:to])
        at = max(at, to)
    assert (found, lines.live) == (cut_found, cut_lines.live)
    assert whole.now == pieces.now


@given(st.binary(max_size=2000) | st.text(max_size=500).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_plain_lines_and_finite_figures(data: bytes) -> None:
    lines = Lines()
    for line in [*lines.feed(data), lines.live]:
        assert line.isprintable()
        read(line)
    output = Output()
    output.feed(data)
    now = output.now
    for value in (now.loss, now.lr, now.grad_norm, now.throughput):
        assert value is None or abs(value) < float("inf")


@given(st.text(alphabet="é▌█a", min_size=1, max_size=8), st.integers(0, 3))
def test_a_line_cut_at_its_limit_is_not_cut_inside_a_letter(unit: str, shift: int) -> None:
    text = "x" * shift + unit * (MOST_LINE // len(unit.encode()) + 1)
    (line,) = Lines().feed(text.encode() + b"\n")
    assert MOST_LINE - 4 < len(line.encode()) <= MOST_LINE
    assert text.startswith(line)


def test_a_line_without_an_end_takes_no_more_room_than_its_limit() -> None:
    lines = Lines()
    for _ in range(40):
        assert lines.feed(b"a" * 10_000) == []
    assert len(lines._rest) == MOST_LINE
    assert lines.feed(b"\nnext\n") == ["a" * MOST_LINE, "next"]


def test_the_live_line_is_what_stands_after_the_last_carriage_return() -> None:
    lines = Lines()
    lines.feed(b"first\n\r 1%| | 1/100\r 2%| | 2/1")
    assert lines.live == "2%| | 2/1"
