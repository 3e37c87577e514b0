"""The machine's figures: this one's, and those of machines laid out as files."""

from __future__ import annotations

from pathlib import Path

import pytest
from vl_agent.metrics.host import HostWatch, disk_of, memory_of

MEMINFO = "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    600 kB\n"
KIB = 1024


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, "proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_this_machine_tells_all_of_it(tmp_path: Path) -> None:
    watch = HostWatch(tmp_path / "not there yet")
    watch.look()
    now = watch.look()
    assert now.memory is not None
    assert now.memory_most is not None
    assert 0 < now.memory <= now.memory_most
    assert now.load is not None
    assert now.disk_free is not None
    assert now.disk_total is not None
    assert 0 < now.disk_free <= now.disk_total


def test_without_a_control_group_the_machine_counts(tmp_path: Path) -> None:
    assert memory_of(machine(tmp_path, "0::/\n", {})) == (400 * KIB, 1000 * KIB)


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": "max", "sys/fs/cgroup/a/memory.max": str(500 * KIB),
                       "sys/fs/cgroup/a/b/memory.current": "0", "sys/fs/cgroup/a/memory.current": str(450 * KIB),
                       "sys/fs/cgroup/a/memory.stat": f"anon 1\ninactive_file {50 * KIB}\n"}),
        ("7:cpu:/x\n4:memory:/a\n0::/\n", {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(500 * KIB),
                        "sys/fs/cgroup/memory/a/memory.usage_in_bytes": str(400 * KIB)}),
    ],
    ids=["version 2, the parent's limit", "version 1"],
)  # fmt: skip
def test_the_control_group_with_the_least_left_counts(tmp_path: Path, groups: str, files: dict[str, str]) -> None:
    assert memory_of(machine(tmp_path, groups, files)) == (400 * KIB, 500 * KIB)


def test_a_limit_above_the_machines_memory_is_none(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096),
             "sys/fs/cgroup/memory/memory.usage_in_bytes": "9"}  # fmt: skip
    assert memory_of(machine(tmp_path, "4:memory:/\n", files)) == (400 * KIB, 1000 * KIB)


def test_the_processors_share_is_of_the_time_since_the_last_look(tmp_path: Path) -> None:
    watch = HostWatch(tmp_path, machine(tmp_path, "", {"proc/stat": "cpu  100 0 100 700 100 0 0 0 5 5\ncpu0 1\n"}))
    assert watch.look().cpu is None
    machine(tmp_path, "", {"proc/stat": "cpu  130 0 120 740 110 0 0 0 5 5\n"})
    assert watch.look().cpu == 0.5


def test_a_machine_that_tells_nothing_is_none_of_it(tmp_path: Path) -> None:
    now = HostWatch(tmp_path, tmp_path).look()
    assert (now.cpu, now.load, now.memory, now.memory_most) == (None, None, None, None)


def test_a_disks_rate_is_known_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, free = 0.0, 1000
    monkeypatch.setattr("vl_agent.metrics.host.disk_of", lambda folder: (free, 2000))
    watch = HostWatch(tmp_path, monotonic=lambda: now)
    assert watch.look().disk_rate is None
    now, free = 60.0, 400
    assert watch.look().disk_rate == pytest.approx(10.0)
    now, free = 655.0, 400
    assert watch.look().disk_rate == 0.0, "what is long past counts no more"


def test_the_disk_of_a_folder_that_is_not_there_is_its_parents(tmp_path: Path) -> None:
    assert disk_of(tmp_path / "a" / "b")[1] == disk_of(tmp_path)[1]
