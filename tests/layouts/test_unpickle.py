"""Pickles are read, never run."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from vl_agent.checkpoints import unpickle
from vl_agent.checkpoints.unpickle import Stub, Unreadable

from tests.layouts.writers import distributed


class Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_what_a_pickle_wants_to_call_is_not_called(tmp_path: Path) -> None:
    target = tmp_path / "made"
    for protocol in range(6):
        found = unpickle.load(pickle.dumps({"step": 3, "evil": Evil(str(target))}, protocol))
        assert found["step"] == 3
        assert isinstance(found["evil"], Stub)
    assert not target.exists()


OLD = [b"cos\nsystem\n(S'touch made'\ntR.", b"c__builtin__\neval\n(S'1+1'\ntR.", b"\x82\x01."]


@pytest.mark.parametrize("code", OLD)
def test_nor_by_old_opcodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(Unreadable):
        assert isinstance(unpickle.load(code), Stub)
    assert list(tmp_path.iterdir()) == []


def test_numbers_and_words_come_out_of_what_torch_saves(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    model = torch.nn.Linear(3, 4)
    torch.save({"global_step": 40, "state_dict": model.state_dict(), "d": defaultdict(list, a=[1])}, path)
    found = unpickle.load_torch(path)
    assert found["global_step"] == 40
    assert set(found["state_dict"]) == {"weight", "bias"}
    assert found["d"] == {"a": [1]}
    assert unpickle.load(pickle.dumps(OrderedDict(a=1))) == {"a": 1}


def test_the_extents_of_a_distributed_checkpoint_are_read() -> None:
    files = distributed(40)
    items = unpickle.load(files[".metadata"]).get("storage_data").values()
    assert max(item.get("offset") + item.get("length") for item in items) == len(files["__0_0.distcp"])
    assert {item.get("relative_path") for item in items} == {"__0_0.distcp"}


def test_more_than_it_should_be_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickle, "MOST", 100)
    with pytest.raises(Unreadable, match="more than"):
        unpickle.load(pickle.dumps("x" * 200))
    torch.save({"x": list(range(200))}, tmp_path / "a.pt")
    with pytest.raises(Unreadable):
        unpickle.load_torch(tmp_path / "a.pt")


def test_however_deep_it_is_nested_it_is_read_or_refused() -> None:
    for code in (b"(" * 100_000 + b".", b"]" * 100_000 + b"a" * 99_999 + b".", b"\x8c\x01a" + b"\x85" * 100_000 + b"."):
        with contextlib.suppress(Unreadable):
            unpickle.load(code)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@example(b"\x8e" + (1 << 40).to_bytes(8, "little") + b"x.")
def test_whatever_bytes_it_is_read_or_refused(body: bytes) -> None:
    for code in (body, pickle.dumps({"a": [1, "b", Evil("x")]})[: len(body)] + body):
        with contextlib.suppress(Unreadable):
            unpickle.load(code)
    assert not Path("x").exists()


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_however_it_is_packed_and_garbled_it_is_read_or_refused(tmp_path: Path, packing: int) -> None:
    path, whole = tmp_path / "a.ckpt", io.BytesIO()
    with zipfile.ZipFile(whole, "w", packing) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"global_step": 40}))
    path.write_bytes(whole.getvalue())
    assert unpickle.load_torch(path) == {"global_step": 40}
    for at in range(len(whole.getvalue())):
        garbled = bytearray(whole.getvalue())
        garbled[at] ^= 0xFF
        path.write_bytes(garbled)
        with contextlib.suppress(Unreadable):
            assert unpickle.load_torch(path) == {"global_step": 40}


@pytest.mark.parametrize("value", [True, -1, 1.0, "3", None, 10**12, [3]])
def test_what_is_no_count_is_none(value: object) -> None:
    assert unpickle.number(value) is None
    assert unpickle.number(12) == 12
