"""A GGUF file as the loader reads a checkpoint: tensors by transformers' names, decoded one by one."""

from __future__ import annotations

from pathlib import Path

import torch

from workbench.gguf.read import Tensor, open_file


class GgufCheckpoint:
    """As :class:`workbench.runtime.checkpoint.Checkpoint`: ``entries``, ``read``, ``close``."""

    def __init__(self, path: Path) -> None:
        self.file = open_file(path)
        self.entries: dict[str, Tensor] = self.file.entries()

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.entries.values())

    def read(self, name: str) -> torch.Tensor:
        """The numbers that the blocks stand for, float32, in transformers' order of rows."""
        return torch.from_numpy(self.file.matrix(name).copy())

    def close(self) -> None:
        """Nothing stays open."""
