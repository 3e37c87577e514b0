"""The place in the data, for those who take batches in ways of their own."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, DistributedSampler, TensorDataset  # noqa: E402
from vl_agent.torch.position import DataPosition  # noqa: E402
from vl_agent.torch.rng import get_rng  # noqa: E402

BATCHES = 4


def loader(**options: Any) -> Any:
    data = TensorDataset(torch.arange(BATCHES * 3))
    sampler = DistributedSampler(data, 1, 0) if options.pop("by_epoch", False) else None
    return DataLoader(data, batch_size=3, sampler=sampler, shuffle=None if sampler else True, **options)


def numbers(batches: Any, count: int = BATCHES) -> list[list[int]]:
    """So many batches; none is asked for after them."""
    return [batch[0].tolist() for batch in itertools.islice(batches, count)]


def test_without_a_generator_of_its_own_the_order_is_that_of_the_bare_loader() -> None:
    torch.manual_seed(7)
    bare = loader()
    expected = [numbers(iter(bare)) for _ in range(3)]
    torch.manual_seed(7)
    position = DataPosition(loader(), own_generator=False)
    assert [numbers(position.epoch(None)) for _ in range(3)] == expected


@pytest.mark.parametrize("options", [{"by_epoch": True}, {}, {"num_workers": 1}], ids=str)
@pytest.mark.parametrize("at", [1, 3, BATCHES])
def test_who_counts_batches_and_asks_for_none_after_the_last_resumes_in_order(options: dict[str, Any], at: int) -> None:
    torch.manual_seed(7)
    position = DataPosition(loader(**options), own_generator=False)
    numbers(position.epoch(None))
    second = position.epoch(None)
    numbers(second, at)
    state, rng = position.state(at_end=at == BATCHES), get_rng()
    expected = [numbers(second, BATCHES - at), numbers(position.epoch(None))]
    if at == BATCHES:
        expected = expected[1:]

    torch.manual_seed(99)
    restored = DataPosition(loader(**options), own_generator=False)
    restored.restore(state)
    first = restored.epoch(rng)
    found = [numbers(first, len(expected[0])), *(numbers(restored.epoch(None)) for _ in expected[1:])]
    assert found == expected


def test_what_is_drawn_between_the_iterator_and_its_first_batch_is_undone(capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(7)
    position = DataPosition(loader())
    numbers(position.epoch(None), 2)
    state, rng = position.state(), get_rng()
    expected = torch.rand(3)
    restored = DataPosition(loader())
    restored.restore(state)
    batches = restored.epoch(rng)
    torch.rand(5)
    next(batches)
    assert torch.rand(3).equal(expected)
