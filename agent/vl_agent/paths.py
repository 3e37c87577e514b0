"""Where things are on a box: one root for all runs, one folder a launch, one folder an epoch.

Names only, and the one way in which small files are replaced; what is in the files belongs to their own modules.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vl_agent.protocol import check_name


def home() -> Path:
    """The agent's root on this box: ``VL_HOME`` or ``~/.vl``."""
    named = os.environ.get("VL_HOME")
    return Path(named).absolute() if named else Path.home() / ".vl"


def site_folder() -> Path:
    """The folder that ``vl_agent`` was imported from."""
    return Path(__file__).resolve().parent.parent


def train_folder() -> Path | None:
    """What enters the training command's PYTHONPATH (the helper alone), where a bootstrap has put it."""
    folder = site_folder().parent / "train"
    return folder if (folder / "vl_agent").is_dir() else None


@dataclass(frozen=True)
class EpochFolder:
    """What one attempt leaves on this box."""

    path: Path

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log"


@dataclass(frozen=True)
class LaunchFolder:
    """Everything of one launch on this box."""

    path: Path

    @property
    def lock(self) -> Path:
        """Held (flock) by the living supervisor; holds its pid."""
        return self.path / "supervisor.lock"

    @property
    def socket(self) -> Path:
        return self.path / "socket"

    @property
    def beat(self) -> Path:
        return self.path / "beat.json"

    @property
    def training(self) -> Path:
        """How to find the training processes again (``vl_agent.training``)."""
        return self.path / "training.json"

    @property
    def ended(self) -> Path:
        """There once the supervisor has said its last word: it is not started again."""
        return self.path / "ended.json"

    @property
    def claims(self) -> Path:
        """The last claims of ``vl-agent run`` on the run's epoch, each written before it is made."""
        return self.path / "claims.json"

    @property
    def prepared(self) -> Path:
        """There once the working folder is unpacked and set up."""
        return self.path / "prepared"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def control(self) -> Path:
        return self.path / "control"

    @property
    def setup_log(self) -> Path:
        return self.path / "setup.log"

    @property
    def supervisor_log(self) -> Path:
        return self.path / "supervisor.log"

    def make(self) -> None:
        """Create the folder, private to its owner: logs and control files may say what others must not read."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def epoch(self, epoch: int) -> EpochFolder:
        return EpochFolder(self.path / f"epoch-{epoch}")

    def epochs(self) -> list[int]:
        """Epochs that this box began, oldest first."""
        numbers = (entry.name[6:] for entry in self.path.glob("epoch-*") if entry.is_dir())
        return sorted(int(number) for number in numbers if number.isdecimal())


def launch_folder(run: str, launch: int) -> LaunchFolder:
    """The folder of a launch; launch 0 is ``vl-agent run``, which needs no launch."""
    return LaunchFolder(home() / "runs" / check_name(run) / str(launch))


def replace_file(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Put ``data`` at ``path`` so that a reader sees the old or the new, whole; ``sync``: and that it outlives a crash
    of the machine once this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the renames in ``folder`` outlive a crash of the machine."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
