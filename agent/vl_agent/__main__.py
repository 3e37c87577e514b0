"""``python -m vl_agent``."""

import sys

from vl_agent.cli import main

sys.exit(main())
