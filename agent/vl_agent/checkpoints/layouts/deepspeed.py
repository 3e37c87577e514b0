"""DeepSpeed: a folder for each tag (``global_stepN``) and ``latest``, which names the newest.

``latest`` may be written before other ranks have written their part of the optimiser, and is not looked at: the files
are counted against the world size that rank 0's say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vl_agent.checkpoints import files
from vl_agent.checkpoints.layouts import contents
from vl_agent.checkpoints.layouts.base import Found, Layout, Pointer, Tree, Trust, lacking, top

_STATES = re.compile(r"[^/]*_(model|optim)_states\.pt")


def _find(tree: Tree) -> list[Found]:
    found = []
    for name in tree.folders:
        below = tree.below(name)
        names = [path.removeprefix(f"{name}/") for path in below]
        if any(_STATES.fullmatch(one) for one in names):
            # Pipeline stages write a file for each layer, and nothing says how many there are.
            trust: Trust = "quiet" if any(one.startswith(("layer_", "expert_")) for one in names) else "marks"
            lacks = lacking(below, r"mp_rank_00_model_states.pt|.*mp_rank_\d+_model_states\.pt", prefix=f"{name}/")
            found.append(Found(name, below, files.step_of(name), trust, lacks))
    return found


def _pointers(paths: Sequence[str], _step: int) -> tuple[Pointer, ...]:
    return (Pointer("latest", text=top(paths[0])),)


LAYOUT = Layout(
    "DeepSpeed",
    "the script calls engine.load_checkpoint(FOLDER), which reads latest",
    _find,
    contents.inside,
    _pointers,
)
