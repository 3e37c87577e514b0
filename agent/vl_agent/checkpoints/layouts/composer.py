"""Composer: ``ep{E}-ba{B}-rank{R}.pt`` in place, a barrier, then the link ``latest-rank{R}.pt``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from vl_agent.checkpoints.files import Stamp
from vl_agent.checkpoints.layouts.base import Found, Layout, Pointer, Tree

_NAME = re.compile(r"ep\d+-ba(\d{1,12})-rank(\d+)\.pt")
_LATEST = re.compile(r"latest-rank(\d+)\.pt")


def _find(tree: Tree) -> list[Found]:
    saves: dict[int, dict[int, tuple[str, Stamp]]] = defaultdict(dict)
    for name, stamp in tree.files.items():
        if match := _NAME.fullmatch(name):
            saves[int(match[1])][int(match[2])] = (name, stamp)
    links = {int(match[1]): target for name, target in tree.links.items() if (match := _LATEST.fullmatch(name))}
    ranks = max([-1, *links, *(rank for save in saves.values() for rank in save)]) + 1
    newest = {rank: int(match[1]) for rank, to in links.items() if (match := _NAME.fullmatch(to.rpartition("/")[2]))}
    found = []
    for step, save in sorted(saves.items()):
        missing = [rank for rank in range(ranks) if rank not in save]
        lacks = f"no file of rank {missing[0]}" if missing else ""
        if links and not lacks and any(newest.get(rank, -1) < step for rank in range(ranks)):
            lacks = f"latest-rank links do not lead to step {step} yet"
        paths = dict(save[rank] for rank in sorted(save))
        found.append(Found(next(iter(paths)), paths, step, "marks" if links else "quiet", lacks))
    return found


def _pointers(paths: Sequence[str], _step: int) -> tuple[Pointer, ...]:
    ranks = [(match[2], path) for path in paths if (match := _NAME.fullmatch(path))]
    return tuple(Pointer(f"latest-rank{rank}.pt", link=path) for rank, path in ranks)


LAYOUT = Layout("Composer", "Trainer(autoresume=True, run_name=...)", _find, pointers=_pointers)
