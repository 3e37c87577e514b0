"""torch.distributed.checkpoint: ``__R_n.distcp`` of each rank, then ``.metadata`` by rename; in a folder for each step,
or again and again in the checkpoint folder itself.

Saved twice under one id the old ``.metadata`` stays while new shards are written: it must be newer than all of them.
"""

from __future__ import annotations

from vl_agent.checkpoints import files
from vl_agent.checkpoints.layouts import contents
from vl_agent.checkpoints.layouts.base import Found, Layout, Tree, Trust, lacking, last

_ITSELF = ".metadata"


def _find(tree: Tree) -> list[Found]:
    found = []
    for name in tree.folders:
        below = tree.below(name)
        if any(path.rpartition("/")[0] == name and path.endswith((".distcp", ".metadata")) for path in below):
            trust: Trust = (
                "marks" if f"{name}/.metadata" in below else "quiet"
            )  # else each rank has metadata of its own
            ordered = last(below, ".metadata")
            found.append(Found(name, ordered, files.step_of(name), trust, lacking(below, prefix=f"{name}/")))
    here = {name: stamp for name, stamp in tree.files.items() if name.endswith((".distcp", ".metadata"))}
    if here:
        lacks = "" if _ITSELF in here else "no .metadata"
        found.append(Found(_ITSELF, last(here, ".metadata"), None, "marks", lacks))
    return found


LAYOUT = Layout("torch distributed checkpoint", "the script calls dcp.load(...)", _find, contents.inside)
