"""Anything else: a file with a number in its name, or a folder of checkpoint files, by quiet time.

Nothing proves these whole but the checks that any file of them passes, and that nobody has written for a while.
"""

from __future__ import annotations

import re

from vl_agent.checkpoints import files
from vl_agent.checkpoints.layouts import contents
from vl_agent.checkpoints.layouts.base import Found, Layout, Tree, Trust, by_step, lacking

_CONTENT = re.compile(
    r".*(\.(pt|pth|ckpt|safetensors|bin|distcp|pkl|npz|npy|h5|hdf5|keras|msgpack|gguf|index)|\.data-\d+-of-\d+)"
)
_FRAMEWORKS = re.compile(r"checkpoint[-_]\d+")
"""Folders of this name are made by frameworks, which may pause for long between two files."""


def _files(tree: Tree) -> list[Found]:
    names = [name for name in tree.files if files.is_candidate(name) and files.step_of(name) is not None]
    return [Found(next(iter(group)), group, step, "quiet") for step, group in by_step(tree, names)]


def _folders(tree: Tree) -> list[Found]:
    found = []
    for name in tree.folders:
        below = tree.below(name)
        if files.is_candidate(name) and any(_CONTENT.fullmatch(path) for path in below):
            trust: Trust = "long" if _FRAMEWORKS.fullmatch(name) else "quiet"
            found.append(Found(name, below, files.step_of(name), trust, lacking(below)))
    return found


FILES = Layout("files", "the script loads its newest file", _files, vouches=False)
FOLDERS = Layout("folders", "the script loads its newest folder", _folders, contents.inside, vouches=False)
