"""Orbax (JAX): everything under ``<step>.orbax-checkpoint-tmp``, commit_success.txt, then one rename to ``<step>``."""

from __future__ import annotations

import re

from vl_agent.checkpoints import files
from vl_agent.checkpoints.layouts import contents
from vl_agent.checkpoints.layouts.base import Found, Held, Inside, Layout, Tree, lacking, last

_OWN = re.compile(r"_CHECKPOINT_METADATA|commit_success\.txt|([^/]+/)?(_METADATA|manifest\.ocdbt)")
_DONE = "commit_success.txt"


def _find(tree: Tree) -> list[Found]:
    found = []
    for name in tree.folders:
        below = tree.below(name)
        names = [path.removeprefix(f"{name}/") for path in below]
        if any(_OWN.fullmatch(one) for one in names):
            temporary = f"{name} is a save under way" if "-tmp" in name else ""
            lacks = temporary or lacking(below, r"commit_success\.txt", prefix=f"{name}/")
            items = {one.partition("/")[0] for one in names if one.endswith(("/_METADATA", "/manifest.ocdbt"))}
            for item in sorted(items):
                if f"{item}/{_DONE}" not in names:
                    lacks = lacks or f"no {name}/{item}/{_DONE}"
            # Removed again, it keeps its marks for a moment: two equal looks.
            found.append(Found(name, last(below, _DONE), files.step_of(name), "still", lacks))
    return found


def _inside(found: Found, held: Held) -> Inside:
    for path in held:
        if path.endswith(("_METADATA", "_sharding")) and contents.json_object(held, path) is None:
            return Inside(f"{path} can't be read")
    return contents.inside(found, held)


LAYOUT = Layout("Orbax", "CheckpointManager.restore(manager.latest_step())", _find, _inside)
