"""Lightning: one ``.ckpt`` file by rename, in place where TMPDIR is on another file system; ``last.ckpt`` beside it as
a copy or a link. Sharded strategies write a folder of that name.

``last.ckpt`` counts only when no other file has its step: with save_top_k it may be the newest of all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from vl_agent.checkpoints import files, unpickle
from vl_agent.checkpoints.layouts import contents
from vl_agent.checkpoints.layouts.base import Found, Held, Inside, Layout, Pointer, Tree, lacking, last, top
from vl_agent.checkpoints.unpickle import Unreadable, number

_NAME = re.compile(r".*=.*\.ckpt|hpc_ckpt_\d+\.ckpt|last(-v\d+)?\.ckpt")
_LAST = "last.ckpt"


def _find(tree: Tree) -> list[Found]:
    found = []
    for name, stamp in tree.files.items():
        if _NAME.fullmatch(name):
            found.append(Found(name, {name: stamp}, files.step_of(name), "marks", copy=name.startswith("last")))
    for name in tree.folders:
        if _NAME.fullmatch(name):
            below = tree.below(name)
            wanted = (r"meta\.pt",) if any(path.endswith((".metadata", ".distcp")) for path in below) else ("latest",)
            lacks = lacking(below, *wanted, prefix=f"{name}/")
            ordered = last(below, ".metadata", "meta.pt", "latest")
            found.append(Found(name, ordered, files.step_of(name), "marks", lacks, name.startswith("last")))
    return sorted(found, key=lambda one: one.copy)


def _inside(found: Found, held: Held) -> Inside:
    inside = contents.inside(found, held)
    state = found.name if found.name in held else f"{found.name}/meta.pt"
    if inside.lacks or state not in held:
        return inside
    try:
        body = unpickle.load_torch(held[state])
    except Unreadable as why:
        return Inside(str(why))
    step = number(body.get("global_step")) if isinstance(body, dict) else None
    return replace(inside, step=inside.step if step is None else step)


def _pointers(paths: Sequence[str], _step: int) -> tuple[Pointer, ...]:
    name = top(paths[0])
    return () if name.startswith("last") else (Pointer(_LAST, link=name),)


LAYOUT = Layout("Lightning", 'trainer.fit(..., ckpt_path="last")', _find, _inside, _pointers)
