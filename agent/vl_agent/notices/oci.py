"""OCI's metadata service. It tells what a box is, never that it will be taken: that comes outside the guest, as an
event of the account; in the guest SIGTERM is the first word (``vl_agent.notices.signals``).
"""

from __future__ import annotations

import json

from vl_agent.direct import Reply

DEFAULT = "http://169.254.169.254"
PATH = "/opc/v2/instance/"
HEADERS = {"Authorization": "Bearer Oracle"}


def is_instance(reply: Reply) -> bool:
    """Whether the reply to a GET of ``PATH`` is OCI's."""
    try:
        found = json.loads(reply.body) if reply.status == 200 else None
    except ValueError:
        return False
    return isinstance(found, dict) and not {"preemptibleInstanceConfig", "compartmentId"}.isdisjoint(found)
