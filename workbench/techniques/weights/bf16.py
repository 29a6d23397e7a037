"""bfloat16 weights: the checkpoint as it is, the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.techniques.base import Claim, Paper
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Bf16(Weights):
    """16-bit brain floating point: the checkpoint's own precision, the usual baseline."""

    title = "bfloat16 weights"
    paper = Paper("1905.12322", "Kalamkar et al. 2019")
    claim = Claim("float32's range in half its bytes; training and inference quality unchanged")

    def storage_bytes(self, rows: int, columns: int) -> int:
        return 2 * rows * columns

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        import torch

        from workbench.runtime.packed import Dense

        return Dense(weight.to(torch.bfloat16), None if bias is None else bias.to(torch.bfloat16))
