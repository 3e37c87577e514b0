"""Every layout on its whole way: saved, durable as one manifest of all its files, and back again with what must point
at it, whatever lies in the folder by then."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from vl_agent.checkpoints import files
from vl_agent.protocol import Manifest, decode

from tests.agent.held import Held, torch_like
from tests.agent.protected import until
from tests.layouts.writers import KINDS, Files, Kind, hf, lay, saved
from tests.store.memory import Ask, Fate, MemoryStore


@pytest.fixture(params=KINDS, ids=lambda kind: kind.id)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
async def held(tmp_path: Path) -> Held:
    made = Held(tmp_path)
    await made.begin()
    return made


async def durable(held: Held, kind: Kind, step: int) -> Manifest:
    """The checkpoint laid out and brought into the store, as at the end of a training."""
    pipeline = held.pipeline()
    lay(held.checkpoints, kind.write(step), kind.pointer(step))
    await held.brought(pipeline)
    held.checked()
    head = await held.now()
    assert head.checkpoint is not None
    assert (head.checkpoint.step == step) is kind.step
    return decode(Manifest, held.memory.objects[head.checkpoint.manifest])


def there(held: Held, kind: Kind, step: int) -> tuple[Files, dict[str, str]]:
    """(files, what points) in the checkpoint folder."""
    pointing = {}
    for name in kind.pointer(step):
        path = held.checkpoints / name
        pointing[name] = f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text()
    return {path: data for path, data in held.on_disk().items() if path not in pointing}, pointing


async def test_on_another_box_it_is_the_same_and_pointed_at(held: Held, kind: Kind) -> None:
    manifest = await durable(held, kind, 40)
    assert manifest.layout == kind.layout
    shutil.rmtree(held.checkpoints)
    assert (await held.restore()).step == manifest.step
    assert there(held, kind, 40) == (kind.write(40), kind.pointer(40))


async def test_in_the_same_folder_whatever_is_torn_stale_or_ahead_is_out_of_sight(held: Held, kind: Kind) -> None:
    manifest = await durable(held, kind, 40)
    torn = dict(list(kind.write(80).items())[:-1])
    lay(held.checkpoints, torn, kind.pointer(80))  # the pointer runs ahead
    for path in list(kind.write(40))[:2]:
        (held.checkpoints / path).write_bytes(b"rotten")
    first = next(iter(kind.write(40)))
    stale = f"{first.rpartition('/')[0]}/rng_state_7.pth" if "/" in first else "step-7.pt"
    lay(held.checkpoints, {stale: b"of another world size", f"{stale}.d/{'x' * 20}": b"deeper"})
    assert (await held.restore()).step == manifest.step
    assert there(held, kind, 40) == (kind.write(40), kind.pointer(40))
    (moved,) = held.told.of("moved_aside")
    assert stale in moved["paths"]
    aside = files.hidden_folder(held.checkpoints) / "aside" / "1"
    assert (aside / stale).read_bytes() == b"of another world size"


async def test_nothing_to_resume_from_leaves_nothing_that_points(held: Held, kind: Kind) -> None:
    lay(held.checkpoints, kind.write(80), kind.pointer(80))
    assert (await held.restore()).step is None
    assert list(held.checkpoints.iterdir()) == []


async def test_a_link_where_a_pointer_should_be_is_replaced_not_followed(held: Held) -> None:
    kind = next(kind for kind in KINDS if kind.id == "deepspeed-1")
    await durable(held, kind, 40)
    elsewhere = held.folder / "elsewhere"
    elsewhere.write_text("mine")
    (held.checkpoints / "latest").unlink()
    (held.checkpoints / "latest").symlink_to(elsewhere)
    await held.restore()
    assert elsewhere.read_text() == "mine"
    assert (held.checkpoints / "latest").read_text() == "global_step40"


async def test_files_that_did_not_change_are_sent_once(held: Held) -> None:
    pipeline = held.pipeline()
    for step in (40, 80):
        lay(held.checkpoints, hf(step))
        await pipeline.look()
        async with held.running(pipeline):
            await until(lambda step=step: pipeline.durable_step == step)
    held.checked()
    head = await held.now()
    first, second = (decode(Manifest, held.memory.objects[entry.manifest]) for entry in head.kept)
    same = {path.partition("/")[2] for path, data in hf(40).items() if hf(80)[path.replace("-40/", "-80/")] == data}
    assert same
    keys = {ref.path.partition("/")[2]: ref.key for ref in first.files}
    assert {ref.path.partition("/")[2] for ref in second.files if ref.key in keys.values()} == same
    told = held.told.of("durable")[-1]
    assert told["bytes"] - told["sent"] == sum(ref.size for ref in second.files if ref.key in keys.values())


async def test_what_was_sent_for_a_commit_whose_answer_was_lost_is_not_named_once_it_is_dropped(held: Held) -> None:
    """The head named it, and a later swap let it go: the same file comes once more in a save after that."""
    pipeline, outage = held.pipeline(keep=1), [False]

    def weights(step: int, words: str) -> None:
        lay(held.checkpoints, {f"step-{step}.pt": torch_like(words)})

    def fault(ask: Ask) -> Fate:
        if ask.op == "swap" and not outage[0]:
            outage[0] = True
            return "lost reply"
        return "lost" if outage[0] else "ok"

    async with held.running(pipeline) as task:
        held.store.fault = fault
        weights(1, "the same")
        await pipeline.look()
        await until(lambda: held.status.store_error)
        weights(2, "another")
        await pipeline.look()
        held.store.fault = None
        await until(lambda: pipeline.durable_step == 2)
        weights(3, "the same")
        await pipeline.look()
        await until(lambda: task.done() or pipeline.durable_step == 3)
    held.checked()


async def test_the_layout_is_told_once_with_how_the_command_resumes(held: Held) -> None:
    pipeline = held.pipeline()
    for step in (40, 80):
        lay(held.checkpoints, hf(step))
        await pipeline.look()
    (told,) = held.told.of("layout")
    assert told["name"] == "Hugging Face Trainer"
    assert "resume_from_checkpoint" in told["resume"]
    assert pipeline.layout == told["name"]


# ------------------------------------------------------------------------------ deleted and overwritten while sent


class Meanwhile(MemoryStore):
    """Does something once, while the ``at``th file is sent."""

    def __init__(self, act: Any, at: int = 2) -> None:
        super().__init__()
        self.act, self.at, self.files = act, at, 0

    async def put_file(self, key: str, path: Path, **_: Any) -> None:
        self.files += 1
        if self.files == self.at:
            self.act()
        await super().put_file(key, path)


async def test_deleted_while_it_is_sent_it_becomes_durable_all_the_same(tmp_path: Path) -> None:
    held = Held(tmp_path, Meanwhile(lambda: shutil.rmtree(held.checkpoints / "checkpoint-40")))
    await held.begin()
    await durable(held, KINDS[0], 40)
    assert (await held.restore()).step == 40
    assert held.on_disk() == hf(40)
    hidden = files.hidden_folder(held.checkpoints)
    assert list((hidden / "hold").iterdir()) == [], "and nothing of it is held any longer"


async def test_overwritten_in_place_while_it_is_sent_it_is_not_committed(tmp_path: Path) -> None:
    path = tmp_path / "work" / "ckpt" / "checkpoint-40" / "scheduler.pt"
    held = Held(tmp_path, Meanwhile(lambda: path.write_bytes(saved({"last_epoch": 41}))))
    await held.begin()
    pipeline = held.pipeline()
    lay(held.checkpoints, hf(40))
    await held.brought(pipeline)
    held.checked()
    assert (await held.now()).checkpoint is None
    assert "written" in held.told.of("save_skipped")[0]["why"]


async def test_one_file_that_is_always_overwritten_becomes_durable_from_a_copy(tmp_path: Path) -> None:
    """Each upload is slower than the next save: of a link the content would be the next one's, each time."""
    held = Held(tmp_path, Meanwhile(lambda: None))
    await held.begin()
    path, number = held.checkpoints / "model.pt", 0

    def overwrite() -> None:
        nonlocal number
        number += 1
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(saved({"number": number}))

    held.store.act = overwrite  # type: ignore[attr-defined]
    pipeline = held.pipeline()
    for at in (1, 2):
        held.store.at, held.store.files = 1, 0  # type: ignore[attr-defined]
        overwrite()
        await pipeline.look()
        await pipeline._next(pipeline._waiting)  # type: ignore[arg-type]
        assert bool((await held.now()).kept) is (at == 2)
    held.checked()
    ref = decode(Manifest, held.memory.objects[(await held.now()).kept[0].manifest]).files[0]
    assert held.memory.objects[ref.key] == saved({"number": 3}), "what was seen, not what is there by now"
