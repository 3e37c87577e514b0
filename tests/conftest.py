"""Fixtures live in ``tests/fixtures``, one file a real counterpart (an S3 server, an sshd, a fleet of boxes)."""

pytest_plugins = ["tests.fixtures.s3", "tests.fixtures.sshd", "tests.fixtures.fleet"]
