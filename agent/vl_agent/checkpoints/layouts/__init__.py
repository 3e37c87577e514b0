"""Which frameworks wrote what is in a checkpoint folder. One file a layout; ``base.Layout`` is what each says
of itself."""

from __future__ import annotations

from vl_agent.checkpoints.layouts import (
    accelerate,
    composer,
    dcp,
    deepspeed,
    generic,
    hf_trainer,
    lightning,
    megatron,
    nemo,
    orbax,
    safetensors,
    torch_save,
)  # fmt: skip
from vl_agent.checkpoints.layouts.base import Found, Layout, Tree, top

LAYOUTS: tuple[Layout, ...] = (
    hf_trainer.LAYOUT,
    accelerate.LAYOUT,
    lightning.LAYOUT,
    nemo.LAYOUT,
    megatron.LAYOUT,
    deepspeed.LAYOUT,
    orbax.LAYOUT,
    composer.LAYOUT,
    dcp.LAYOUT,
    safetensors.LAYOUT,
    torch_save.LAYOUT,
    generic.FOLDERS,
    generic.FILES,
)
"""In the order in which they are asked: who wraps another's files in his own folder comes before the other."""

HELPER = Layout("vl_agent.torch", "the Checkpointer resumes by itself", lambda _: [])
"""Saves that the helper told of."""


class Recognised:
    """What was recognised in one checkpoint folder so far: a folder that an unknown hand makes beside a known layout is
    no checkpoint, nor is a file without a number beside numbered ones."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._numbered: set[str] = set()

    def find(self, tree: Tree) -> list[tuple[Layout, Found]]:
        """The checkpoints in the folder. An entry belongs to the first layout that names it."""
        found: list[tuple[Layout, Found]] = []
        for layout in LAYOUTS:
            if layout is generic.FOLDERS and self._numbered - {layout.name}:
                continue
            if layout is generic.FILES and self._known - {layout.name}:
                continue
            for one in layout.find(tree):
                found.append((layout, one))
                self._known.add(layout.name)
                if one.step is not None:
                    self._numbered.add(layout.name)
                tree = tree.without({one.name, *(top(path) for path in one.files)})
        return [(layout, one) for layout, one in found if one.step is not None or one.copy or not self._numbered]


def named(name: str) -> Layout | None:
    """The layout of a manifest."""
    return next((layout for layout in LAYOUTS if layout.name == name), None)
