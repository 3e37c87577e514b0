"""Fixtures live in ``tests/fixtures``, one file a real counterpart (an S3 server, an sshd, a fleet of boxes)."""

import os

import pytest

pytest_plugins = ["tests.fixtures.s3", "tests.fixtures.sshd", "tests.fixtures.fleet", "tests.fixtures.slurm"]

os.environ["VL_METADATA_ENDPOINT"] = ""  # no agent that a test starts looks for a cloud around this machine

_LONG = ("demo_killed_twice", "tests/demo/", "tests/helper/", "tests/controller/test_end_to_end")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The few that take minutes begin first, so that no core waits for the last of them."""
    items.sort(key=lambda item: next((at for at, part in enumerate(_LONG) if part in item.nodeid), len(_LONG)))
