"""A GGUF file as the loader reads a checkpoint: tensors by transformers' names, decoded one by one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.gguf.read import Tensor, open_file
from workbench.runtime.packed_blocks import FORMS, Blocks

if TYPE_CHECKING:
    from workbench.runtime.sources import Source
    from workbench.settings import Settings


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


class GgufMatrices:
    """Matrices that stay in the file's blocks (Q8_0, Q4_0, Q4_K): the interface of a calibrated model.

    Those in other formats are decoded and kept as ``technique`` says."""

    def __init__(self, path: Path, technique: Any) -> None:
        self.file, self.technique = open_file(path), technique
        self.entries = self.file.entries()

    @classmethod
    def of(cls, source: Source, settings: Settings, device: torch.device) -> GgufMatrices | None:
        """Where the file's blocks run as they are: weights=bf16 on a CPU with the native library."""
        from workbench.kernels import native

        if (source.gguf is None or source.random or settings.weights.name() != "bf16"
                or device.type != "cpu" or not native.available()):
            return None
        made = cls(source.gguf, settings.weights)
        return made if any(t.kind in FORMS for t in made.entries.values()) else None

    def holds(self, name: str) -> bool:
        """Every tensor is in the file itself, so none is taken from the checkpoint's list."""
        return False

    def method(self, name: str) -> Any:
        """The technique for a matrix that is not kept in blocks, None for one that is."""
        return None if self._form(name) in FORMS else self.technique

    def pack(self, name: str, bias: torch.Tensor | None, device: torch.device, shape: tuple[int, int]
             ) -> Blocks:
        form, raw = self.file.ordered_blocks(f"{name}.weight")
        return Blocks(torch.from_numpy(raw.copy()), form, bias)

    def head(self, name: str, embedding: str) -> Blocks | None:
        """The output head in the file's blocks: its own, or the embedding's where the file ties them."""
        for found in (name, embedding):
            if f"{found}.weight" in self.entries:
                known = self._form(found) in FORMS
                return self.pack(found, None, torch.device("cpu"), (0, 0)) if known else None
        return None

    def _form(self, name: str) -> str:
        entry = self.entries.get(f"{name}.weight")
        return entry.kind if entry is not None else ""

    @property
    def nbytes(self) -> int:
        """Of the whole file's tensors; nothing grows by being opened but what is decoded to 16 bits."""
        grown = sum(2 * t.shape[0] * (t.shape[-1] if len(t.shape) > 1 else 1)
                    for t in self.entries.values() if t.kind not in FORMS)
        return grown + sum(t.nbytes for t in self.entries.values() if t.kind in FORMS)

    def parameters(self) -> list[str]:
        """Nothing is changed beside the matrices."""
        return []

    def parameter(self, name: str) -> torch.Tensor | None:
        return None

    def describe(self) -> str:
        return f"as the file stores them, {self.file.scheme()}"

    def close(self) -> None:
        """Nothing stays open."""
