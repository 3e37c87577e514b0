"""Fixtures live in ``tests/fixtures``, one file a real counterpart (an S3 server, an sshd, a fleet of boxes)."""

import os

pytest_plugins = ["tests.fixtures.s3", "tests.fixtures.sshd", "tests.fixtures.fleet"]

os.environ["VL_METADATA_ENDPOINT"] = ""  # no agent that a test starts looks for a cloud around this machine
