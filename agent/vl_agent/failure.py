"""Any foreseen error of ``vl-agent`` as an exit code and one line."""

from __future__ import annotations

from vl_agent import head as heads
from vl_agent.protocol import ProtocolError
from vl_agent.store import Denied, Exists, NoStore, NotFound, StoreError, Unsafe

FINISHED, FAILED, MISTAKE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130


class Mistake(Exception):
    """The person's; ``str()`` says what and the remedy."""


def explain(error: Exception) -> tuple[int, str]:
    """Exit code and words. Raises ``error`` again where nobody foresaw it."""
    if isinstance(error, (Mistake, ProtocolError, heads.Refused, Denied, Exists, NoStore, NotFound, Unsafe)):
        return MISTAKE, str(error)
    if isinstance(error, StoreError):
        return UNREACHABLE, str(error)
    if isinstance(error, OSError):
        return FAILED, f"{error.filename or 'this machine'}: {error.strerror}."
    raise error
