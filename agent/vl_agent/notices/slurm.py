"""Slurm: SIGTERM (preemption, ``scancel``), and the user's signal (``--signal=USR1@120``, or at preemption where the
site sends it then). SIGCONT comes with SIGTERM and means nothing.

Only what ``srun`` started, or a batch script that became the agent by ``exec``, hears them in time: the shell of a
batch script is told, its children are not.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping

from vl_agent.notices import WINDOW_S, Ear, Notice
from vl_agent.notices.signals import Window, listen

USER_SIGNAL_S = 20.0
"""From a user signal at preemption to the kill, as measured; before a time limit it is what the job asked for."""
TAKEN_S = 600.0
"""A job that was told to go is taken within this: grace time, the half minute between Slurm's looks, KillWait."""
_LONG_S = 1800.0


def listen_to_user(ear: Ear, window_s: float | None) -> Callable[[], None]:
    """Tell of USR1 and USR2. ``window_s``: what somebody said they leave. Returns what ends it."""
    return listen(ear, "slurm", (signal.SIGUSR1, signal.SIGUSR2), lambda: window_s or user_window_s(os.environ))


def kill_wait(window_s: float | None) -> Window:
    """What SIGTERM leaves."""
    return lambda: WINDOW_S["slurm"] if window_s is None else window_s


def user_window_s(environ: Mapping[str, str]) -> float:
    """What a user signal leaves: until the job's time limit where that is near, else as at a preemption."""
    try:
        left = float(environ["SLURM_JOB_END_TIME"]) - time.time()
    except (KeyError, ValueError):
        return USER_SIGNAL_S
    return left if 0 < left < _LONG_S else USER_SIGNAL_S


def restarted(environ: Mapping[str, str]) -> bool:
    """Whether this is a requeued job, begun again by Slurm and not by a person."""
    return environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


def takes_its_job(notice: Notice) -> bool:
    """Whether Slurm will end the job that had this notice, and begin it again where it may: at a preemption. A job that
    ends by itself before counts as done. A user's signal also comes before the time limit, after which nothing begins
    again: then the job's script may still ask for it (``scontrol requeue``)."""
    return notice.source == "slurm" and notice.detail == signal.SIGTERM.name
