"""torch.save into files of the script's own naming: a zip whose directory comes last and whose members carry CRCs, by
rename or in place; without a number in any name one that is overwritten again and again.

Files of one step are one checkpoint. The first that is there counts at once, and again when another of its step comes;
from then on the set must be as full as the one before (``watch``).
"""

from __future__ import annotations

from vl_agent.checkpoints import files
from vl_agent.checkpoints.layouts.base import Found, Layout, Tree, Trust, by_step


def _find(tree: Tree) -> list[Found]:
    names = [name for name in tree.files if name.endswith(files.SUFFIXES) and files.is_candidate(name)]
    found = []
    for step, group in by_step(tree, names):
        several = len(group) > 1 and step is None  # overwritten one by one, in between it is a mixture
        trust: Trust = "quiet" if several else "still" if any(n.endswith(".safetensors") for n in group) else "marks"
        found.append(Found(next(iter(group)), group, step, trust))
    return found


LAYOUT = Layout("torch.save", "the script loads its newest file", _find, vouches=False)
