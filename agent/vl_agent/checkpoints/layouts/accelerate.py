"""accelerate's ``save_state``: a folder with ``random_states_R.pkl`` of each rank.

It has no true mark: objects that a script registered come after the random states, so quiet decides, or the same set of
files as in the folder before. Its number counts saves, not steps.
"""

from __future__ import annotations

import re

from vl_agent.checkpoints import files
from vl_agent.checkpoints.layouts import contents
from vl_agent.checkpoints.layouts.base import Found, Layout, Tree, lacking, last

_RANDOM = re.compile(r"random_states_(\d+)\.pkl")
_WEIGHTS = r"model.safetensors|(?!optimizer|scheduler|sampler).*\.(safetensors|bin|distcp)|.*_model_states\.pt"


def _find(tree: Tree) -> list[Found]:
    found = []
    for name in tree.folders:
        below = tree.below(name)
        names = [path.removeprefix(f"{name}/") for path in below]
        ranks = {int(match[1]) for one in names if (match := _RANDOM.fullmatch(one))}
        if ranks:
            missing = [rank for rank in range(max(ranks)) if rank not in ranks]
            lacks = f"no random_states_{missing[0]}.pkl" if missing else lacking(below, _WEIGHTS, prefix=f"{name}/")
            ordered = last(below, *(f"random_states_{rank}.pkl" for rank in sorted(ranks)))
            found.append(Found(name, ordered, files.step_of(name), "quiet", lacks))
    return found


LAYOUT = Layout("accelerate", "the script calls accelerator.load_state(FOLDER)", _find, contents.inside, vouches=False)
