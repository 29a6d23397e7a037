"""Weights: how the linear layers' matrices are stored and multiplied.

A method turns one matrix into a module that holds its bytes and multiplies by them.
``rows`` is out_features, ``columns`` is in_features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from workbench.techniques.base import Technique

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Weights(Technique):
    """Protocol of the family."""

    #: The dtype that activations, norms, embeddings and every matrix that is not packed have.
    compute_dtype: ClassVar[str] = "bfloat16"

    def packs_head(self) -> bool:
        """Whether the output head is packed too. A tied head is then an extra packed copy, because
        the embedding lookup keeps its matrix; an untied one is replaced."""
        return False

    def storage_bytes(self, rows: int, columns: int) -> int:
        """Bytes of one packed matrix, scales and padding included; equals what ``pack`` allocates."""
        raise NotImplementedError

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        """``weight`` [rows, columns] on its target device -> a module ``forward(x [..., columns]) ->
        [..., rows]`` whose buffers are all that is kept, with ``kernel: str`` (what will really run)
        and ``dequantize() -> [rows, columns]`` float32."""
        raise NotImplementedError
