"""A wheel built from the tree and installed elsewhere works like the tree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder of its own, as pip lays it out."""
    folder = tmp_path_factory.mktemp("wheel")
    _call([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], ROOT)
    [wheel] = folder.glob("*.whl")
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index", "-q"]
    _call([*pip, "--no-compile", "--target", str(site), str(wheel)], folder)
    return site


def _call(command: list[str], folder: Path, site: Path | None = None) -> str:
    env = (
        {**os.environ, "PYTHONPATH": str(site)} if site else {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    )
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


@pytest.mark.parametrize(
    ("tree", "inside"), [("vl_tui", "vl_tui"), ("agent/vl_agent", "vl_agent"), ("themes", "vl_tui/themes")]
)
def test_every_file_of_the_tree_is_in_the_wheel(installed: Path, tree: str, inside: str) -> None:
    expected = _files(ROOT / tree)
    assert expected
    assert expected <= _files(installed / inside)


@pytest.mark.parametrize("arguments", [["vl_tui.cli", "vl-tui", "--version"], ["vl_agent.cli", "vl-agent", "--help"]])
def test_the_installed_commands_start(installed: Path, tmp_path: Path, arguments: list[str]) -> None:
    module, script, option = arguments
    where = _call([sys.executable, "-c", f"import {module}; print({module}.__file__)"], tmp_path, installed)
    assert where.startswith(str(installed))
    assert _call([str(installed / "bin" / script), option], tmp_path, installed)


def test_the_installed_package_finds_its_own_themes_and_agent(installed: Path, tmp_path: Path) -> None:
    code = (
        "from vl_tui.app import theme; import vl_agent, pathlib\n"
        "print(pathlib.Path(vl_agent.__file__).parent)\n"
        "print(theme.__file__)\n"
    )
    assert str(ROOT / "agent") not in _call([sys.executable, "-c", code], tmp_path, installed)
