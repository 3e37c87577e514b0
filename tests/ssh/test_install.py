"""The agent gets onto a bare box over the connection itself, once a version."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.fixtures.sshd import Sshd
from vl_tui.ssh import bundle
from vl_tui.ssh.bundle import InstallError, Platform
from vl_tui.ssh.connection import connect
from vl_tui.ssh.hostkeys import Pins
from vl_tui.ssh.install import install_agent

IMPORTS = "import blake3, obstore, zstandard, vl_agent.protocol"
OLDER = Path("/root/.pyenv/versions/3.10.13/bin/python3.10")


async def test_the_agent_runs_on_a_box_that_had_only_python(sshd: Sshd, tmp_path: Path) -> None:
    conn = await connect(sshd.address(), box_id="b", pins=Pins(tmp_path / "pins"))
    install = await install_agent(conn, cache=tmp_path / "cache")
    assert install.root == f"{sshd.home}/.vl"
    site = Path(install.root, install.version, "site")
    test = f"'import sys; sys.path.insert(0, \"{site}\"); {IMPORTS}'"
    done = await conn.run(f"{install.python} -I -S -c {test}", timeout=30)
    assert (done.exit_status, done.stderr) == (0, b"")
    helper = sorted(path.name for path in (site.parent / "train/vl_agent").iterdir())
    assert helper == ["__init__.py", "archive.py", "control.py", "torch", "writer.py"]
    conn.abort()


async def test_a_box_that_has_the_version_is_left_alone(sshd: Sshd, tmp_path: Path) -> None:
    conn = await connect(sshd.address(), box_id="b", pins=Pins(tmp_path / "pins"))
    install = await install_agent(conn, cache=tmp_path / "cache")
    before = os.stat(f"{install.root}/{install.version}").st_ino
    assert await install_agent(conn, cache=tmp_path / "cache") == install
    assert os.stat(f"{install.root}/{install.version}").st_ino == before
    assert sorted(os.listdir(install.root)) == [install.version]
    conn.abort()


async def test_a_damaged_bundle_is_refused_and_leaves_nothing(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = await connect(sshd.address(), box_id="b", pins=Pins(tmp_path / "pins"))
    real = conn.run

    async def damaged(command: str, *, stdin: bytes = b"", timeout: float):  # type: ignore[no-untyped-def]
        return await real(command, stdin=stdin[:-1], timeout=timeout)

    monkeypatch.setattr(conn, "run", damaged)
    with pytest.raises(InstallError, match="damaged"):
        await install_agent(conn, cache=tmp_path / "cache")
    assert os.listdir(f"{sshd.home}/.vl") == []
    conn.abort()


@pytest.mark.skipif(not OLDER.exists(), reason="no Python 3.10 here to stand for an older box")
async def test_a_box_with_another_python_gets_wheels_that_fit_it(sshd: Sshd, tmp_path: Path) -> None:
    older = tmp_path / "bin"
    older.mkdir()
    (older / "python3").symlink_to(OLDER)
    conn = await connect(sshd.address(), box_id="b", pins=Pins(tmp_path / "pins"))
    platform = Platform((3, 10), os.uname().machine, (2, 36))
    made = bundle.build(platform, tmp_path / "cache")
    site = tmp_path / "site"
    shutil.unpack_archive(made.path, site, "gztar")
    done = await conn.run(
        f"{older}/python3 -I -S -c 'import sys; sys.path.insert(0, \"{site}/site\"); {IMPORTS}'", timeout=30
    )
    assert (done.exit_status, done.stderr) == (0, b"")
    conn.abort()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"machine": "riscv64"}, "riscv64"),
        ({"version": [3, 9]}, "3.9"),
        ({"libc": ["", ""]}, "glibc"),
        ({"root": ""}, "no folder"),
        ({"version": "x"}, "can't be read"),
    ],
)
def test_a_box_that_cannot_run_the_agent_is_named_with_the_reason(answer: dict[str, object], words: str) -> None:
    probe = {
        "python": "/usr/bin/python3", "version": [3, 11], "system": "Linux", "machine": "x86_64",
        "libc": ["glibc", "2.36"], "root": "/root/.vl", "boot_id": "", "have": [],
    }  # fmt: skip
    with pytest.raises(InstallError, match=words):
        Platform.of("gpu1", probe | answer)


def test_wheels_are_judged_as_pip_judges_them() -> None:
    box = Platform((3, 11), "x86_64", (2, 31))
    fits = [
        "py3-none-any", "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", "cp310-abi3-manylinux_2_28_x86_64",
    ]  # fmt: skip
    not_fits = [
        "cp310-cp310-manylinux_2_17_x86_64", "cp311-cp311-manylinux_2_35_x86_64", "cp312-abi3-manylinux_2_17_x86_64",
        "cp311-cp311-musllinux_1_2_x86_64", "cp311-cp311-manylinux_2_17_aarch64",
    ]  # fmt: skip
    assert [tag for tag in fits if not box.fits(tag)] == []
    assert [tag for tag in not_fits if box.fits(tag)] == []
