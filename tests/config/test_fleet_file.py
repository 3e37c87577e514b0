"""fleet.yaml, and the private folders of a fleet."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from vl_tui.config import ConfigError, LocalProvider, SshProvider, load_fleet

TOP = "fleet: mine\nstore: s3://bucket/prefix\n"
LOCAL = "providers: [{kind: local}]\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_fleet(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_example_is_read(tmp_path: Path) -> None:
    text = (
        TOP
        + "endpoint: https://minio:9000\nproviders:\n  - {kind: ssh, hosts: [gpu1, me@10.0.0.2:2222], usd_hour: 1}\n"
    )
    config = load_fleet(
        write(tmp_path, text + "  - {kind: local, name: nimbus, socket: /run/x}\ndefaults: {grace: 20s}\n")
    )
    assert config.providers == (
        SshProvider(kind="ssh", hosts=("gpu1", "me@10.0.0.2:2222"), usd_hour=1.0),
        LocalProvider(kind="local", name="nimbus", socket="/run/x"),
    )
    assert config.store_options == {"endpoint": "https://minio:9000"}
    assert (config.defaults.grace, config.defaults.keep) == (20.0, 3)
    assert config.path.is_absolute()


def test_without_a_path_the_persons_own_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="no such file. Write one with at least"):
        load_fleet(None)
    (tmp_path / "vl-tui").mkdir()
    (tmp_path / "vl-tui" / "fleet.yaml").write_text(TOP + LOCAL)
    assert load_fleet(None).fleet == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TOP, ["providers", "is missing", "kind: ssh"]),
        ("fleet: a\nstroe: s3://bucket\n" + LOCAL, ["line 2, stroe", "Did you mean 'store'?", "1 more problem after"]),
        (TOP + "providers: [{kind: ssh, hosts: [a], usd_hour: 1.0e+300}]", ["providers[0].usd_hour", "at most"]),
        (TOP + "providers: []", ["line 3, providers", "empty list"]),
        (TOP + "providers:\n  - {kind: rumpod}", ["line 4, providers[0]", "'rumpod' is not known", "'ssh', 'local'"]),
        (TOP + "providers:\n  - {hosts: [a]}", ["line 4, providers[0]", "no `kind`"]),
        (TOP + "providers:\n  - {kind: ssh, hots: [a]}", ["line 4, providers[0].hots", "Did you mean 'hosts'?"]),
        (TOP + "providers:\n  - {kind: ssh, hosts: ['-oProxyCommand=x']}", ["providers[0].hosts", "not a host"]),
        (TOP + "providers:\n  - {kind: ssh, hosts: [a, a]}", ["providers[0].hosts", "twice"]),
        (TOP + "providers:\n  - {kind: ssh, hosts: [a], usd_hour: -1}", ["providers[0].usd_hour", "at least 0"]),
        (TOP + "providers: [{kind: ssh, hosts: [a]}, {kind: ssh, hosts: [b]}]", ["called 'ssh'", "another `name`"]),
        (TOP + LOCAL + "defaults: {grace: 3}", ["line 4, defaults.grace", "A unit is needed"]),
        (TOP + LOCAL + "defaults: {grace: 3s}", ["line 4, defaults", "at least twice beat"]),
        (TOP + LOCAL + "endpoint: minio:9000", ["line 4, endpoint", "http://host:port"]),
        ("fleet: ../x\nstore: s3://bucket\n" + LOCAL, ["line 1, fleet", "can't be a name"]),
        ("fleet: a\nstore: file:///x\nendpoint: http://x\n" + LOCAL, ["`endpoint` is for s3://"]),
    ],
)
def test_a_mistake_is_named_with_its_line_and_key_and_what_to_do(tmp_path: Path, text: str, words: list[str]) -> None:
    found = complaint(write(tmp_path, text))
    assert all(word in found for word in words), found


@pytest.mark.parametrize("store", ["bucket/prefix", "ftp://x", "s3://", "file://relative", "file:///", "s3://b/../c"])
def test_a_store_that_is_none_is_refused_with_the_forms_there_are(tmp_path: Path, store: str) -> None:
    found = complaint(write(tmp_path, f"fleet: a\nstore: '{store}'\n{LOCAL}"))
    assert "line 2, store" in found
    assert "file:///" in found


@pytest.mark.parametrize(
    "line",
    [
        "store: s3://AKIA:hunter2@bucket",
        "store: s3://b/?key=hunter2",
        "store: s3://bucket\nendpoint: https://u:hunter2@host",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(tmp_path: Path, line: str) -> None:
    found = complaint(write(tmp_path, f"fleet: a\n{line}\n{LOCAL}"))
    assert "holds credentials" in found
    assert "hunter2" not in found


def test_the_fleets_folders_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    config = load_fleet(write(tmp_path, TOP + LOCAL))
    (tmp_path / "XDG_RUNTIME_DIR" / "vl-tui").mkdir(parents=True, mode=0o755)
    for folder in (config.runtime_dir, config.state_dir, config.cache_dir):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    assert config.state_dir == tmp_path / "XDG_STATE_HOME" / "vl-tui" / "mine"


def test_a_link_in_place_of_the_runtime_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "vl-tui").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not a folder of yours"):
        _ = load_fleet(write(tmp_path, TOP + LOCAL)).runtime_dir
