"""A store out of reach: said once, asked again, durable when it is back; nothing is doubled, nothing lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.agent.held import RUN, Held
from tests.agent.protected import until
from tests.store.memory import Ask, Fate, fate_of


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vl_agent.checkpoints.pipeline._MOST_PAUSE_S", 0.1)


@pytest.fixture
async def held(tmp_path: Path) -> Held:
    made = Held(tmp_path)
    await made.begin()
    return made


def out_of_reach(_: Ask) -> Fate:
    return "lost"


async def test_at_risk_is_said_once_and_then_that_it_is_over(held: Held) -> None:
    pipeline = held.pipeline()
    held.save(5)
    held.store.fault = out_of_reach
    async with held.running(pipeline):
        await pipeline.look()
        await until(lambda: len(held.store.asked) > 12, "it is asked again and again")
        assert held.told.kinds() == ["layout", "saved", "at_risk"]
        assert "no answer" in held.status.store_error
        assert (pipeline.saved_step, pipeline.durable_step) == (5, None)
        held.store.fault = None
        await until(lambda: held.told.of("not_at_risk"))
    assert held.told.kinds() == ["layout", "saved", "at_risk", "durable", "not_at_risk"]
    assert held.status.store_error == ""
    assert held.head_in_store().checkpoint.step == 5  # type: ignore[union-attr]


async def test_of_what_was_saved_meanwhile_the_newest_alone_is_brought(held: Held) -> None:
    pipeline = held.pipeline()
    held.store.fault = out_of_reach
    async with held.running(pipeline):
        for step in (5, 6, 7):
            held.save(step)
            await pipeline.look()
            asked = len(held.store.asked)
            await until(lambda asked=asked: len(held.store.asked) > asked)
        (held.checkpoints / "step-7.pt").unlink()  # the script's rotation; a link holds the content
        held.store.fault = None
        await until(lambda: pipeline.durable_step == 7)
    head = held.head_in_store()
    assert [entry.step for entry in head.kept] == [7]
    held.checked()
    hold = held.work / ".ckpt.vl" / "hold"
    assert list(hold.iterdir()) == [], "what was held for it is let go"


@pytest.mark.parametrize(
    ("op", "key"), [("put", "/blobs/"), ("create", "/checkpoints/"), ("swap", "head.json"), ("get", "head.json")]
)
@pytest.mark.parametrize("fate", ["lost", "lost reply", "late", "twice"])
async def test_a_request_whose_answer_is_lost_is_not_doubled(held: Held, op: str, key: str, fate: Fate) -> None:
    held.store.fault = fate_of(op, fate, key=key)
    pipeline = held.pipeline()
    held.save(5)
    await held.brought(pipeline)
    held.store.arrive()
    head = held.head_in_store()
    assert [entry.step for entry in head.kept] == [5]
    assert head.checkpoint == head.kept[0]
    assert len(held.told.of("durable")) == 1
    held.checked()
    manifests = [name for name in held.memory.objects if "/checkpoints/" in name]
    assert manifests == [head.kept[0].manifest], "one save, one manifest"


async def test_an_outage_in_the_middle_of_a_save_goes_on_from_there(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob that is in the store is not sent a second time because the swap got no answer."""
    pipeline = held.pipeline()
    held.save(5)
    held.store.fault = fate_of("swap", "lost", times=5)
    monkeypatch.setattr("vl_agent.head._TRIES", 2)
    await held.brought(pipeline)
    assert len([ask for ask in held.store.asked if ask.op == "put" and "/blobs/" in ask.key]) == 1
    assert [entry.step for entry in held.head_in_store().kept] == [5]


async def test_what_is_deleted_late_is_no_risk_and_is_swept_by_the_next(held: Held) -> None:
    pipeline = held.pipeline(keep=1)
    for step in (5, 6):
        held.save(step)
        await pipeline.look()
        async with held.running(pipeline):
            held.store.fault = fate_of("delete", "lost", times=99)
            await until(lambda step=step: pipeline.durable_step == step)
            await until(lambda: pipeline.pending is None)
    assert "not deleted yet" in held.told.of("warning")[0]["text"]
    assert held.told.of("at_risk") == []
    held.store.fault = None
    from vl_agent import head as heads

    head = await held.begin()
    assert await heads.sweep(held.store, RUN, epoch=head.epoch, holder=head.holder) == 2
    held.checked()


async def test_a_training_that_ends_while_the_store_is_away_waits_for_it(held: Held) -> None:
    """Its last save is worth more than its box."""
    await held.begin("until [ -e go ]; do sleep 0.02; done; printf 'a bare pickle' > ckpt/step-5.pt")
    attempt = held.attempt()
    running = asyncio.create_task(attempt.run("box-1"))
    await until(lambda: held.status.phase == "training")
    held.store.fault = out_of_reach
    (held.work / "go").touch()
    await until(lambda: held.status.store_error and held.status.phase == "draining")
    assert not running.done()
    held.store.fault = None
    assert (await asyncio.wait_for(running, 30)).cause == "finished"
    head = held.head_in_store()
    assert (head.state, head.checkpoint.step) == ("finished", 5)  # type: ignore[union-attr]


async def test_one_lost_look_at_the_head_is_no_risk_yet(held: Held) -> None:
    attempt = held.attempt()
    held.store.fault = fate_of("get", "lost", key="head.json")
    await attempt.look_at_head()
    assert held.status.store_error == ""
    held.store.fault = out_of_reach
    await attempt.look_at_head()
    await attempt.look_at_head()
    assert held.status.store_error
    held.store.fault = None
    await attempt.look_at_head()
    assert held.status.store_error == ""
    told = (held.folder / "epoch-1" / "journal.jsonl").read_text()
    assert (told.count('"at_risk"'), told.count('"not_at_risk"')) == (1, 1)
    attempt.journal.close()
