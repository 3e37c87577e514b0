"""One hash for a checkpoint's tensors, whoever saved them: ``python -m vl_tui.demo.weights FILE`` prints it.

Run as a process of its own, because the operator's side never imports torch.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def tensors_sha256(path: Path) -> str:
    """SHA-256 over every tensor of a ``torch.save`` file in key order: key, dtype, shape, bytes. What is no tensor (a
    step counter, a time) does not count."""
    import torch

    digest = hashlib.sha256()
    for key, tensor in sorted(_tensors(torch.load(path, map_location="cpu", weights_only=True), "")):
        whole = tensor.detach().contiguous()
        digest.update(f"{key} {whole.dtype} {tuple(whole.shape)}\n".encode())
        digest.update(whole.flatten().view(torch.uint8).numpy().tobytes() if whole.numel() else b"")
    return digest.hexdigest()


def _tensors(found: Any, key: str) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(found, torch.Tensor):
        yield key, found
    elif isinstance(found, dict):
        for name, value in found.items():
            yield from _tensors(value, f"{key}/{name}")
    elif isinstance(found, (list, tuple)):
        for index, value in enumerate(found):
            yield from _tensors(value, f"{key}/{index:09d}")


if __name__ == "__main__":
    print(tensors_sha256(Path(sys.argv[1])))
