"""Torn and corrupt checkpoints of each layout: none is ever taken for whole, by no look and not at the end either.

A good checkpoint lies beside each, as in a run; then the next one is damaged in one way. What a format can't tell (a
flipped bit in safetensors, which has no checksum) is not counted here; a flip that leaves all content as it was is no
damage and not counted either.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vl_agent.checkpoints import unpickle

from tests.layouts.conftest import COUNTED
from tests.layouts.looking import Looking
from tests.layouts.writers import KINDS, Files, Kind

Record = Callable[[str, object], None]
LENGTHS, FLIPS = 12, 10


@pytest.fixture(params=[kind for kind in KINDS if kind.id != "file"], ids=lambda kind: kind.id)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def damaged(kind: Kind, chance: random.Random) -> Iterator[tuple[str, Files]]:
    """(what was done, the files) of a checkpoint of step 80."""
    whole = dict(kind.write(80))
    for path, data in whole.items():
        if not path.endswith(kind.unproven or ("\0",)):
            for length in sorted(
                {0, 1, len(data) // 2, len(data) - 1, *chance.sample(range(len(data)), k=min(LENGTHS, len(data)))}
            ):
                yield f"{path} cut to {length} bytes", {**whole, path: data[:length]}
            if path.endswith((".pt", ".pth", ".ckpt", ".bin", ".pkl", ".distcp")):
                yield f"{path} is zeros", {**whole, path: bytes(len(data))}
        if data[:2] == b"PK":
            for at in chance.sample(range(len(data)), k=FLIPS):
                flipped = bytearray(data)
                flipped[at] ^= 1 << chance.randrange(8)
                yield f"{path} flipped at {at}", {**whole, path: bytes(flipped)}
            at = data.find(b"PK\x01\x02") // 2
            yield f"{path} has a block of zeros", {**whole, path: data[:at] + bytes(64) + data[at + 64 :]}
        if len(whole) > 1 and not path.endswith(kind.unproven or ("\0",)):
            yield f"{path} is missing", {name: data for name, data in whole.items() if name != path}
    for count in range(1, len(whole)):
        yield f"only the first {count} files", dict(itertools.islice(whole.items(), count))


def content(path: str, data: bytes, metadata: bytes | None) -> object:
    """What a loader gets out of a file, as far as it can be got without torch; None: it is torn."""
    try:
        if path.endswith(".json"):
            return json.loads(data)
        if path.endswith(".distcp") and metadata is not None:
            items = unpickle.load(metadata).get("storage_data").values()
            extents = sorted((item.get("offset"), item.get("length")) for item in items)
            return [members(data[start : start + length]) for start, length in extents] if data else None
        return members(data) if data[:2] == b"PK" else data
    except (ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError):
        return None


def members(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(member.filename, archive.read(member)) for member in archive.infolist()]


def is_damage(kind: Kind, files: Files) -> bool:
    whole = kind.write(80)
    metadata = next((data for path, data in whole.items() if path.endswith(".metadata")), None)
    return set(files) != set(whole) or any(
        data != whole[path] and content(path, data, metadata) != content(path, whole[path], metadata)
        for path, data in files.items()
    )


def test_none_is_ever_taken_for_whole(kind: Kind, tmp_path: Path, record_property: Record) -> None:
    chance, counted = random.Random(kind.id), 0
    for number, (what, files) in enumerate(damaged(kind, chance)):
        if not is_damage(kind, files):
            continue
        looking = Looking(tmp_path / str(number))
        looking.lay(kind, 40)
        looking.watch.ignore_present()
        if not kind.step:  # else what is missing of it would be there, of the one before
            shutil.rmtree(looking.folder)
        looking.lay(kind, 80, files)  # and the pointer runs ahead
        assert [saved.seen for saved in looking.ever()] == [], what
        counted += 1
    assert counted >= 3
    record_property(f"{COUNTED}: {kind.layout}", counted)


def test_a_file_that_nothing_proves_is_not_believed_when_its_writer_was_killed(tmp_path: Path) -> None:
    looking = Looking(tmp_path)
    (looking.folder / "weights_40.bin").write_bytes(b"half of a bare file")
    assert looking.look() == []
    assert looking.watch.look(patient=False, finished=False) == []
    assert len(looking.watch.look(patient=False, finished=True)) == 1
