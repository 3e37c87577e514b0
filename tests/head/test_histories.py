"""Whatever happens between writers, network and store, the invariants hold; and the real store does as the model."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from vl_agent import head as heads
from vl_agent.store import Store, StoreError

from tests.head.histories import CONTENTS, KINDS, History, Writer, act, no_sleep
from tests.store.memory import Ask, Fate

WHICH = st.integers(0, 7)
STEPS = st.integers(1, 10)


class HeadProtocol(RuleBasedStateMachine):
    """Any writer may begin anything at any time; any request may meet any fate."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(heads, "asyncio", type("Clock", (), {"sleep": staticmethod(no_sleep)}))
        self.history = History()

    def teardown(self) -> None:
        self.patch.undo()

    def idle(self, kind: str, which: int) -> Writer | None:
        found = self.history.idle(kind)
        return found[which % len(found)] if found else None

    @precondition(lambda self: self.history.waiting)
    @rule(which=WHICH, fates=st.lists(st.sampled_from(KINDS), min_size=1, max_size=12))
    def requests_meet_fates(self, which: int, fates: list[Fate]) -> None:
        operation = self.history.waiting[which % len(self.history.waiting)]
        for fate in fates:
            if operation.waits is not None:
                self.history.answer(operation, fate)

    @precondition(lambda self: self.history.waiting)
    @rule(which=WHICH)
    def all_goes_well(self, which: int) -> None:
        operation = self.history.waiting[which % len(self.history.waiting)]
        while operation.waits is not None:
            self.history.answer(operation, "ok")

    @precondition(lambda self: self.history.late)
    @rule(which=WHICH)
    def a_late_request_arrives(self, which: int) -> None:
        self.history.arrive(which % len(self.history.late))

    @precondition(lambda self: self.history.generation < 4)
    @rule()
    def another_controller(self) -> None:
        self.history.controller()

    @rule(which=WHICH, launch=st.integers(1, 4))
    def start(self, which: int, launch: int) -> None:
        if (by := self.idle("controller", which)) is not None:
            self.history.start(by, launch)

    @rule(which=WHICH, launch=st.integers(1, 4))
    def give_up(self, which: int, launch: int) -> None:
        if (by := self.idle("controller", which)) is not None:
            self.history.give_up(by, launch)

    @rule(which=WHICH, step=STEPS)
    def roll_back(self, which: int, step: int) -> None:
        if (by := self.idle("controller", which)) is not None:
            self.history.roll_back(by, step)

    @rule(which=WHICH)
    def stop(self, which: int) -> None:
        if (by := self.idle("controller", which)) is not None:
            self.history.stop(by)

    @rule(step=STEPS, pinned=st.booleans())
    def pin(self, step: int, pinned: bool) -> None:
        self.history.pin(step, pinned=pinned)

    @precondition(lambda self: self.history.tokens)
    @rule(which=WHICH)
    def a_box_claims(self, which: int) -> None:
        self.history.box(self.history.tokens[-1 - which % len(self.history.tokens)])

    @rule(which=WHICH, content=st.sampled_from(CONTENTS), steps=st.sampled_from((1, 1, 1, -2)))
    def save(self, which: int, content: bytes, steps: int) -> None:
        if (one := self.idle("box", which)) is not None and one.holder:
            self.history.save(one, content, steps)

    @rule(which=WHICH)
    def a_box_starts_again(self, which: int) -> None:
        if (one := self.idle("box", which)) is not None and one.holder:
            self.history.restart(one)

    @rule(which=WHICH, state=st.sampled_from(("released", "finished", "failed")))
    def conclude(self, which: int, state: str) -> None:
        if (one := self.idle("box", which)) is not None and one.holder:
            self.history.conclude(one, state)


HeadProtocol.TestCase.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
test_any_interleaving_keeps_the_invariants = HeadProtocol.TestCase


def test_long_random_histories_keep_the_invariants_and_get_somewhere() -> None:
    """``check`` raises inside; the sums prove that these histories did not just idle."""
    epochs = durable = deleted = late = 0
    for seed in range(80):
        rng, history = random.Random(seed), History()
        for _ in range(200):
            act(history, rng.randrange)
        epochs += history.head.epoch
        durable += history.head.checkpoint is not None
        deleted += len(history.deleted)
        late += sum(w.over for w in history.writers)
    assert epochs > 160
    assert durable > 40
    assert deleted > 100
    assert late > 80


@pytest.mark.timeout(120)
async def test_the_real_store_answers_every_request_of_these_histories_as_the_model_does(s3_store: Any) -> None:
    for seed in range(24):
        rng, history = random.Random(1000 + seed), History()
        for _ in range(60):
            act(history, rng.randrange)
        store: Store = s3_store()
        try:
            await replay(history, store, seed)
        finally:
            await store.close()


async def replay(history: History, store: Store, seed: int) -> None:
    """The same requests in the same order: the same winners, the same losers, the same bytes in the end."""
    versions: dict[str, str] = {}
    for number, (ask, came) in enumerate(history.performed):
        if ask.op in ("list", "get"):
            continue
        assert await ask_store(store, ask, versions) == came, f"history {seed}, request {number}: {ask.op} {ask.key}"
    there = {entry.key: (await store.get(entry.key)).data for entry in await store.list("")}
    assert there == history.memory.objects


async def ask_store(store: Store, ask: Ask, versions: dict[str, str]) -> str:
    args = list(ask.args)
    if ask.op == "swap":
        args[2] = versions.get(args[2], args[2])
    try:
        answer = await getattr(store, ask.op)(*args)
    except StoreError as error:
        return type(error).__name__
    if ask.op != "delete":
        versions[hashlib.md5(ask.args[1], usedforsecurity=False).hexdigest()] = answer
    return "done"
