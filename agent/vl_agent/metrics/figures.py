"""What one line of a training's output says in figures: step, loss, learning rate and so on, in the usual forms. Pure.

The forms: progress bars of tqdm (plain, Transformers, Lightning, torchtune), dictionaries of Transformers (numbers in
4.x, quoted in 5.x), DeepSpeed, Megatron, torchtitan, ``key=value`` and its like, JSON. Every pattern is bounded, so
that a hostile line costs no more than its length.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

_MOST = 4096
"""Characters of a line that are looked at: figures stand at its beginning."""
_MOST_STEP = 10**12

_NUMBER = r"[+-]?\d[\d,]{0,20}(?:\.\d{0,30})?(?:[eE][+-]?\d{1,4})?|[+-]?\.\d{1,30}|nan|NaN|[+-]?inf\w{0,5}"
_WORTH = re.compile(r"step|iter|loss|epoch", re.IGNORECASE)
"""Without one of these a line is prose."""
_ENDS = r"(?![\w:-]|\.\d)"
_PAIR = re.compile(
    r"(?<![A-Za-z])([A-Za-z_][\w/.-]{0,60}(?:[ ]\w{1,20}){0,4}(?:[ ]\([^()]{1,30}\))?)['\"]?"
    rf"[ ]?[:=][ ]{{0,10}}['\"\[(]?({_NUMBER}){_ENDS}"
)
_SAID_STEP = re.compile(
    r"(?<![\w.-])(?:global[_ ]step|step|iteration|iter)[ ]{0,12}[:=#]?[ ]{0,12}(\d{1,12})"
    r"(?:[ ]{0,8}/[ ]{0,8}(\d{1,12}))?(?![\w-]|[.:]\d)",
    re.IGNORECASE,
)
_SPACED = re.compile(
    rf"(?<![\w/.-])(?:(val|valid|validation|eval|test)[ _])?(loss|lr)[ ]{{1,8}}({_NUMBER}){_ENDS}", re.IGNORECASE
)
_TORCHTUNE = re.compile(rf"\d{{1,9}}\|(\d{{1,12}})\|Loss: ({_NUMBER})")
_EPOCH = re.compile(r"\bepoch[ :]{0,2}\[?(\d{1,9})(?:/(\d{1,9}))?\]?", re.IGNORECASE)
_EPOCH_BATCH = re.compile(r"\bEpoch:?[ ]?\[(\d{1,9})\][ ]?\[[ ]{0,10}(\d{1,12})/(\d{1,12})\]")
_COUNT = re.compile(r"[ ]{0,20}(\d{1,12})/(\d{1,12})[ ]{1,4}\[")
_RATE = re.compile(r"(\d[\d.]{0,20})(it/s|s/it)")

_STEP = ("global_step", "step", "iteration", "iter", "steps")
_TOTAL = ("max_steps", "total_steps", "total")
_LOSS = ("loss", "lm loss", "train_loss", "train loss", "train/loss", "training_loss", "training loss")
_LR = ("lr", "learning_rate", "learning rate", "train/learning_rate", "train/lr")
_GRAD_NORM = ("grad_norm", "grad norm", "gradnorm", "train/grad_norm", "grad-norm", "gnorm")
_SPEED = {
    "tps": "tokens/s", "tokens_per_second_per_gpu": "tokens/s", "tokens_per_second": "tokens/s",
    "tokens_per_sec": "tokens/s", "tok/s": "tokens/s", "samples_per_second": "samples/s",
    "currsamplespersec": "samples/s", "throughput per gpu (tflop/s/gpu)": "TFLOP/s", "throughput": "",
}  # fmt: skip
"""By name, what it counts."""
_ELSEWHERE = ("val", "eval", "test", "best")
"""Names that begin so are not the training's own."""
_TRAINING_BAR = re.compile(r"(?:train|fit|pre-?train|finetun|steps?\b|iter|global step|epoch)", re.IGNORECASE)


@dataclass(frozen=True)
class Bar:
    """A progress bar's counter: ``title`` is empty where it has none."""

    title: str
    count: int
    total: int | None

    @property
    def trains(self) -> bool:
        """Its title says so."""
        return bool(_TRAINING_BAR.match(self.title))

    @property
    def foreign(self) -> bool:
        """Its title names something else: a download, an evaluation, the writing of a checkpoint."""
        return bool(self.title) and not self.trains


@dataclass(frozen=True)
class Figures:
    """What a line says; None: nothing. Numbers are finite."""

    step: int | None = None
    """Said in words, not counted by a bar."""
    total: int | None = None
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    throughput: float | None = None
    """As the script counts: steps, tokens or samples a second; ``unit`` says which."""
    unit: str = ""
    bar: Bar | None = None


NOTHING = Figures()


def read(line: str) -> Figures:
    """The figures of one plain line (``lines.plain``). Never raises."""
    line = line[:_MOST]
    if line.startswith("{") and line.endswith("}"):
        found = _json(line)
        if found is not None:
            return found
    if "%|" in line or "it [" in line:
        found = _bar(line)
        if found is not None:
            return found
    return _words(line)


# -- the forms -----------------------------------------------------------------------------------------------------


def _json(line: str) -> Figures | None:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    numbers = {key.lower(): float(value) for key, value in body.items() if _is_number(value)}
    return _of(numbers)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _bar(line: str) -> Figures | None:
    """tqdm: ``title:  25%|##5   | 5/20 [00:00<00:00, 162.85it/s, loss=0.25]``; without a total ``title: 5it [...]``."""
    mark = line.find("%|")
    if mark >= 0:
        title = line[:mark].rstrip("0123456789").rstrip(" :")
        drawn = line[mark + 2 :]
        found = _COUNT.match(drawn, drawn.find("|") + 1)
        if found is None:  # counts of bytes, or cut off
            return NOTHING
        count, total, rest = int(found[1]), int(found[2]), drawn[found.end() :]
    else:
        head, _, rest = line.partition("it [")
        digits = head[len(head.rstrip("0123456789")) :]
        if not digits or len(digits) > 12:
            return None
        title, count, total = head[: -len(digits)].rstrip(" :"), int(digits), 0
    bar, said = _placed(title, count, total or None), _TORCHTUNE.search(title)
    numbers = _pairs(rest)
    figures = _of({key: value for key, value in numbers.items() if key not in _STEP and key not in _TOTAL})
    figures = _with_speed(figures, rest)
    if said is not None:
        return replace(figures, step=int(said[1]), loss=_finite(said[2]))
    if bar.foreign:
        return Figures(bar=bar)
    return replace(figures, bar=bar)


def _placed(title: str, count: int, total: int | None) -> Bar:
    """A bar that begins anew with every epoch, as one counter: Lightning counts epochs from 0, ``i/n`` from 1."""
    epoch = _EPOCH.match(title)
    if epoch is None or total is None:
        return Bar(title[:60], count, total)
    number, of = int(epoch[1]), int(epoch[2]) if epoch[2] else None
    if of is None:
        return Bar("epoch", number * total + count, None)
    return Bar("epoch", max(0, number - 1) * total + count, of * total)


def _with_speed(figures: Figures, rest: str) -> Figures:
    rate = _RATE.search(rest)
    value = None if rate is None else _finite(rate[1])
    if rate is None or not value:
        return figures
    return replace(figures, throughput=value if rate[2] == "it/s" else 1 / value, unit="steps/s")


def _words(line: str) -> Figures:
    """Figures by name: a step counts only beside another figure, or prose ("saved at step 500") would be one."""
    if not _WORTH.search(line):
        return NOTHING
    numbers = _pairs(line)
    dictionary = line.find("{'") >= 0
    if dictionary and any(name in numbers for name in ("train_runtime", "eval_loss", "eval_runtime")):
        return NOTHING
    for validation, name, value in _SPACED.findall(line):
        if not validation:
            numbers.setdefault(name.lower(), _float(value))
    names = [name for name in (*_LOSS, *_LR, *_GRAD_NORM, *_SPEED) if name in numbers]
    figures = _of({key: value for key, value in numbers.items() if key not in _STEP})
    batch = _EPOCH_BATCH.search(line)
    if batch is not None:
        step = int(batch[1]) * int(batch[3]) + int(batch[2])
        return replace(figures, step=step) if names else NOTHING
    said = _SAID_STEP.search(line)
    if said is None or not names:
        return figures if dictionary else NOTHING
    ms = numbers.get("elapsed time per iteration (ms)")
    if ms and figures.throughput is None:
        figures = replace(figures, throughput=1000 / ms, unit="steps/s")
    return replace(figures, step=int(said[1]), total=int(said[2]) if said[2] else None)


def _pairs(text: str) -> dict[str, float]:
    """Every ``name: number``, ``name=number`` of the text by its name in small letters (NaN too: it says that the line
    has a loss); the first of a name counts.
    Of ``Rank 0 loss: 1`` the name is ``loss``: a name of several words also counts by its last ones."""
    found: dict[str, float] = {}
    for name, value in _PAIR.findall(text):
        number, name = _float(value), name.lower()
        found.setdefault(name, number)
        for known in (*_LOSS, *_LR, *_GRAD_NORM):
            if name.endswith((" " + known, "/" + known)) and not name.startswith(_ELSEWHERE):
                found.setdefault(known, number)
    return found


def _of(numbers: Mapping[str, float]) -> Figures:
    step, total = _first(numbers, _STEP), _first(numbers, _TOTAL)
    speed = next((name for name in _SPEED if name in numbers), "")
    return Figures(
        step=_count(step), total=_count(total) if step is not None else None, loss=_first(numbers, _LOSS),
        lr=_first(numbers, _LR), grad_norm=_first(numbers, _GRAD_NORM),
        throughput=_first(numbers, (speed,)), unit=_SPEED.get(speed, ""),
    )  # fmt: skip


def _first(numbers: Mapping[str, float], names: Iterable[str]) -> float | None:
    found = next((numbers[name] for name in names if name in numbers), None)
    return found if found is not None and math.isfinite(found) else None


def _count(value: float | None) -> int | None:
    return int(value) if value is not None and 0 <= value < _MOST_STEP and value == int(value) else None


def _float(text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return math.nan


def _finite(text: str) -> float | None:
    return number if math.isfinite(number := _float(text)) else None
