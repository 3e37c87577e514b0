"""A checkpoint folder that is looked at under a clock of its own."""

from __future__ import annotations

from pathlib import Path

from vl_agent.checkpoints.watch import LONG_S, Saved, Watch

from tests.layouts.writers import Files, Kind, lay


class Looking:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "ckpt"
        self.folder.mkdir(parents=True)
        self.now = 100.0
        self.watch = Watch(self.folder, lambda: self.now)

    def look(self, after: float = 0.3) -> list[Saved]:
        self.now += after
        return self.watch.look()

    def soon(self) -> list[Saved]:
        """What counts within two looks: proven, not only quiet."""
        return [*self.look(), *self.look()]

    def quiet(self) -> list[Saved]:
        """What counts within a quiet while."""
        return [saved for _ in range(10) for saved in self.look()]

    def ever(self) -> list[Saved]:
        """What ever counts of what is there, also when the training is killed now."""
        found = [*self.quiet(), *self.look(LONG_S), *self.look(LONG_S)]
        return [*found, *self.watch.look(patient=False, finished=False)]

    def lay(self, kind: Kind, step: int, files: Files | None = None) -> None:
        lay(self.folder, kind.write(step) if files is None else files, kind.pointer(step))


def held(saved: Saved) -> dict[str, bytes]:
    return {part.path: part.held.read_bytes() for part in saved.parts}
