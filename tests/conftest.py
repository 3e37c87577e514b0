"""Fixtures live in ``tests/fixtures``, one file a real counterpart (an S3 server, an sshd, a fleet of boxes)."""

import pytest

pytest_plugins = ["tests.fixtures.s3", "tests.fixtures.sshd", "tests.fixtures.fleet"]

_LONG = ("tests/demo/", "tests/helper/test_bit_exact_resume", "tests/controller/test_end_to_end")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The few that take minutes begin first, so that no core waits for the last of them."""
    items.sort(key=lambda item: next((at for at, part in enumerate(_LONG) if part in item.nodeid), len(_LONG)))
