"""The two files a person writes, ``fleet.yaml`` and ``run.yaml``, as validated models.

Owns reading, checking and the words of every complaint; knows nothing of the store, the boxes or the clock.
"""

from vl_tui.config.document import ConfigError
from vl_tui.config.fleet import Defaults, FleetConfig, LocalProvider, SshProvider, default_fleet_path, load_fleet
from vl_tui.config.run import Checkpoints, Resources, RunConfig, load_run

__all__ = [
    "Checkpoints",
    "ConfigError",
    "Defaults",
    "FleetConfig",
    "LocalProvider",
    "Resources",
    "RunConfig",
    "SshProvider",
    "default_fleet_path",
    "load_fleet",
    "load_run",
]
