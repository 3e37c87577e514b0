"""The working folder's tar comes from the store and is not trusted: nothing of it lands outside its folder."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3
from vl_agent import workdir
from vl_agent.protocol import CheckpointPolicy, RunSpec, workdir_key
from vl_agent.workdir import SetupFailed, set_up, unpack

from tests.store.memory import MemoryStore


class Tar:
    """A tar as anybody might make one."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._bytes, mode="w")  # noqa: SIM115

    def add(self, name: str, data: bytes = b"evil", **fields: object) -> Tar:
        member = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(member, field, value)
        member.size = len(data) if member.type == tarfile.REGTYPE else 0
        self._tar.addfile(member, io.BytesIO(data))
        return self

    def link(self, name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> Tar:
        return self.add(name, type=kind, linkname=to)

    def done(self) -> bytes:
        self._tar.close()
        return self._bytes.getvalue()


async def unpacked(folder: Path, body: bytes, digest: str = "") -> Path:
    store, digest = MemoryStore(), digest or blake3(body).hexdigest()
    store.memory.objects[workdir_key("char", digest)] = body
    spec = RunSpec("char", "test", "true", CheckpointPolicy("ckpt"), workdir=digest)
    await unpack(store, spec, folder / "work")
    return folder / "work"


async def test_files_folders_modes_and_links_inside_arrive(tmp_path: Path) -> None:
    tar = Tar().add("src", type=tarfile.DIRTYPE).add("src/a.sh", b"a", mode=0o755).add("b", b"b", mode=0o644)
    work = await unpacked(tmp_path, tar.link("src/to-b", "../b").done())
    assert (work / "src/a.sh").read_bytes() == b"a"
    assert stat.S_IMODE((work / "src/a.sh").stat().st_mode) == 0o755
    assert (work / "src/to-b").read_bytes() == b"b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work"], "the tar itself is gone"


HOSTILE: dict[str, Callable[[Path], Tar]] = {
    "absolute": lambda at: Tar().add(f"{at}/evil"),
    "parent": lambda _: Tar().add("../evil"),
    "parent within": lambda _: Tar().add("a/../../evil"),
    "nothing": lambda _: Tar().add("."),
    "link to outside": lambda at: Tar().link("x", str(at)),
    "link to parent": lambda _: Tar().link("x", ".."),
    "link up from below": lambda _: Tar().link("a/x", "../../evil"),
    "through a link": lambda _: Tar().link("x", ".").add("x/../../evil"),
    "behind a link": lambda _: Tar().add("d", type=tarfile.DIRTYPE).link("x", "d").add("x/evil"),
    "hard link": lambda _: Tar().link("x", "/etc/passwd", tarfile.LNKTYPE),
    "fifo": lambda _: Tar().add("x", type=tarfile.FIFOTYPE),
    "device": lambda _: Tar().add("x", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_member_ends_it_and_leaves_nothing_outside(tmp_path: Path, kind: str) -> None:
    body = HOSTILE[kind](tmp_path).done()
    with pytest.raises(SetupFailed, match="the working folder"):
        await unpacked(tmp_path, body)
    outside = [path for path in tmp_path.iterdir() if path.name != "work"]
    assert outside == []
    for path in (tmp_path / "work").rglob("*"):
        assert path.resolve().is_relative_to(tmp_path / "work")


async def test_a_member_replaces_a_link_and_does_not_write_through_it(tmp_path: Path) -> None:
    body = Tar().add("a", b"a").link("x", "a").add("x", b"new").done()
    work = await unpacked(tmp_path, body)
    assert ((work / "a").read_bytes(), (work / "x").read_bytes()) == (b"a", b"new")


async def test_no_member_is_set_uid(tmp_path: Path) -> None:
    work = await unpacked(tmp_path, Tar().add("x", mode=0o6777).done())
    assert stat.S_IMODE((work / "x").stat().st_mode) == 0o755


@pytest.mark.parametrize("cut", [1, 700, 1500])
async def test_a_truncated_tar(tmp_path: Path, cut: int) -> None:
    body = Tar().add("x", b"x" * 2000).done()
    with pytest.raises(SetupFailed, match="unpacked"):
        await unpacked(tmp_path, body[:cut])


async def test_another_content_than_was_submitted(tmp_path: Path) -> None:
    with pytest.raises(SetupFailed, match="its hash differs"):
        await unpacked(tmp_path, Tar().add("x").done(), digest="0" * 64)
    assert list((tmp_path / "work").iterdir()) == []


async def test_it_is_not_in_the_store(tmp_path: Path) -> None:
    spec = RunSpec("char", "test", "true", CheckpointPolicy("ckpt"), workdir="0" * 64)
    with pytest.raises(SetupFailed, match="submit the run again"):
        await unpack(MemoryStore(), spec, tmp_path / "work")


async def test_setup_that_fails_says_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(SetupFailed, match="exit status 3: no such package"):
        await set_up("echo no such package >&2; exit 3", tmp_path, tmp_path / "log", dict(os.environ))


async def test_setup_that_never_ends_is_ended_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.agent.protected import is_alive, until

    monkeypatch.setattr(workdir, "SETUP_S", 0.5)
    with pytest.raises(SetupFailed, match="did not end within"):
        await set_up("sleep 600 & echo $! > child; wait", tmp_path, tmp_path / "log", dict(os.environ))
    child = int((tmp_path / "child").read_text())
    await until(lambda: not is_alive(child))
