"""safetensors: single files by rename, or shards by rename and then ``*.index.json`` in place (``save_pretrained``).

The format has lengths but no checksum: a torn file is found, a flipped bit is not.
"""

from __future__ import annotations

import re
from collections import defaultdict

from vl_agent.checkpoints import files
from vl_agent.checkpoints.layouts import contents
from vl_agent.checkpoints.layouts.base import Found, Layout, Tree, by_step, last

_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.safetensors|\.bin)")
_BESIDE = ("config.json", "generation_config.json", "adapter_config.json")


def _find(tree: Tree) -> list[Found]:
    found, sharded = [], _sharded(tree)
    of_shards = {name for one in sharded for name in one.files}
    names = [n for n in tree.files if n.endswith(files.SUFFIXES) and files.is_candidate(n) and n not in of_shards]
    if all(name.endswith(".safetensors") for name in names):
        for step, group in by_step(tree, names):
            found.append(
                Found(next(iter(group)), group, step, "still" if step is not None or len(group) == 1 else "quiet")
            )
    return [*sharded, *found]


def _sharded(tree: Tree) -> list[Found]:
    shards: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name in sorted(tree.files):
        if match := _SHARD.fullmatch(name):
            shards[match[1], match[2], match[3]].append(name)
    found = []
    for (stem, total, suffix), names in shards.items():
        index = f"{stem}{suffix}.index.json"
        paths = [*names, *(name for name in (*_BESIDE, index) if name in tree.files)]
        stamps = {name: tree.files[name] for name in paths}
        lacks = "a file of it is being written" if tree.under_way else ""
        if len(names) != int(total):
            lacks = f"{len(names)} of {int(total)} shards"
        elif index not in stamps:
            lacks = f"no {index}"
        elif any(stamps[name].mtime_ns > stamps[index].mtime_ns for name in names):
            lacks = f"{index} is older than its shards"
        found.append(Found(index, last(stamps, index), files.step_of(stem), "still", lacks))
    return found


LAYOUT = Layout("safetensors", "the script loads its newest file", _find, contents.inside, vouches=False)
