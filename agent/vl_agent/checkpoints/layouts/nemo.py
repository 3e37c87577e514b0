"""NeMo 2: a folder with ``weights/`` (Megatron's torch_dist) and ``context/``; a marker ``<name>-unfinished`` lies
beside it while it is written."""

from __future__ import annotations

from vl_agent.checkpoints import files
from vl_agent.checkpoints.layouts import contents
from vl_agent.checkpoints.layouts.base import Found, Layout, Tree, lacking, last

MARKER = "-unfinished"


def _find(tree: Tree) -> list[Found]:
    found = []
    for name in tree.folders:
        below = tree.below(name)
        names = {path.removeprefix(f"{name}/") for path in below}
        if not names & {"weights/common.pt", "weights/.metadata", "weights/metadata.json"}:
            continue
        lacks = lacking(
            below, r"weights/common\.pt", r"weights/metadata\.json", r"weights/\.metadata", prefix=f"{name}/"
        )
        if name + MARKER in tree.files:
            lacks = f"{name}{MARKER} says so"
        ordered = last(below, ".metadata", "metadata.json")
        found.append(Found(name, ordered, files.step_of(name), "still", lacks, copy=name.endswith("-last")))
    return sorted(found, key=lambda one: one.copy)


LAYOUT = Layout("NeMo", "AutoResume(resume_if_exists=True)", _find, contents.inside)
