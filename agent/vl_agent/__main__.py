"""``python -m vl_agent``."""

from vl_agent.cli import script

script()
