"""Themes are YAML files: what they say is what is drawn, and what is wrong in one is named with file, line and key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from rich.color import Color

from tests.app.driven import driven
from vl_tui.app import theme
from vl_tui.app.app import VlApp
from vl_tui.config import ConfigError

SHIPPED = Path(theme.__file__).resolve().parents[2] / "themes" / "vl-dark.yaml"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The person's own theme folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "vl-tui" / "themes"
    folder.mkdir(parents=True)
    return folder


def test_the_shipped_theme_is_what_its_file_says() -> None:
    body = yaml.safe_load(SHIPPED.read_text())
    look = theme.load()
    assert look.theme.background == body["background"]
    assert look.style("train").color == Color.parse(body["roles"]["train"])
    assert look.style("bar").bgcolor == Color.parse(body["roles"]["bar"])
    assert look.style("migrate") == look.style("restore"), "a role may name a role"


async def test_the_file_is_what_the_screen_is_drawn_with() -> None:
    body = yaml.safe_load(SHIPPED.read_text())
    async with driven() as one:
        assert one.app.theme == "vl-dark"
        assert one.app.theme_variables["background"].lower() == body["background"]
        strips = one.app.screen._compositor.render_strips(one.app.size)
        [cell] = [segment for segment in strips[4] if segment.text.strip() == "training"]
        assert cell.style is not None
        assert cell.style.color == Color.parse(body["roles"]["train"])


def test_a_theme_of_the_persons_own_goes_before_the_shipped_one(own: Path) -> None:
    (own / "vl-dark.yaml").write_text(SHIPPED.read_text().replace("#5fb0a6", "#123456"))
    (own / "mine.yaml").write_text(SHIPPED.read_text().replace("name: vl-dark", "name: mine"))
    assert theme.load().style("train").color == Color.parse("#123456")
    assert theme.load("mine").theme.name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('train: "#5fb0a6"', 'train: "#zzz"', "roles.train: '#zzz' is not a colour"),
        ('train: "#5fb0a6"', "train: 7", "roles.train: '7' is not a colour"),
        ('train: "#5fb0a6"', 'trane: "#5fb0a6"', "roles.trane: 'trane' is not a role"),
        ("migrate: restore", "migrate: lost2", "roles.migrate: 'lost2' is not a colour"),
        ('primary: "#93b9f0"', 'primery: "#93b9f0"', "primery: 'primery' is not a part of a theme"),
        ('background: "#14171c"', "background: nothing", "background: 'nothing' is not a colour"),
        ("dark: true", "lit: true", "'lit' is not a part of a theme"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(own: Path, old: str, new: str, words: str) -> None:
    text = SHIPPED.read_text()
    assert text.count(old) == 1
    path = own / "vl-dark.yaml"
    path.write_text(text.replace(old, new))
    line = path.read_text()[: path.read_text().index(new)].count("\n") + 1
    with pytest.raises(ConfigError) as found:
        theme.load()
    assert str(found.value).startswith(f"{path}, line {line}, ")
    assert words in str(found.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('  lost: "#e8737a"\n', "", "roles: lacks lost"),
        ("name: vl-dark", "name: [x]", "needs at least a name"),
        ("dark: true", "dark: true\ndark: false", "twice"),
        ("roles:", "roles: none\nodd:", "odd"),
    ],
)
def test_a_theme_that_is_not_whole_is_refused(own: Path, old: str, new: str, words: str) -> None:
    (own / "vl-dark.yaml").write_text(SHIPPED.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=words):
        theme.load()


@pytest.mark.parametrize("name", ["no-such", "../../etc/passwd", "", "a.b"])
def test_a_theme_that_is_not_there_is_a_mistake(name: str, own: Path) -> None:
    with pytest.raises(ConfigError, match="theme"):
        theme.load(name)


@pytest.mark.parametrize("no_color", ["", "1"])
async def test_the_plain_look_uses_the_terminals_own_colours_or_none(
    no_color: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    look = theme.plain()
    colours = {style.color for style in look.styles.values()}
    assert all(colour is None or colour.is_system_defined for colour in colours)
    assert (colours == {None}) == bool(no_color)
    assert look.style("select").reverse
    async with driven(look=look) as one:
        await one.press("m")
        await one.see("enter migrate to 1")


def test_every_role_of_the_lanes_and_states_is_in_the_theme() -> None:
    from vl_tui.app import state
    from vl_tui.domain.lanes import GLYPHS

    words = [value for value in vars(state).values() if isinstance(value, state.Word)]
    roles = {role for _, _, role in GLYPHS.values()} | {word.role for word in words}
    assert roles <= set(theme.ROLES)
    assert VlApp.ENABLE_COMMAND_PALETTE is False
    assert os.environ.get("TEXTUAL_THEME") is None
