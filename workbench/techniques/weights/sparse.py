"""Sparse weights: most of them removed, the rest in bfloat16 with a bit per place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.weights import Weights

if TYPE_CHECKING:
    import torch

    from workbench.events import Event
    from workbench.settings import Settings


@dataclass(frozen=True)
class Sparse(Weights):
    """The least important weights are removed; what is left is stored as bits of place and bfloat16
    numbers.

    The kernel fills the zeros in inside the cache. A matrix takes 16 (1 - sparsity) + 1 bits per weight.
    ``sparsegpt`` makes up for what it removes on calibration text (once per model, kept in the cache);
    ``magnitude`` keeps the largest and needs no text, so a model that was pruned and fine-tuned before
    keeps exactly its weights at the same sparsity. Faster than dense bfloat16 where decoding waits for
    memory. Embedding and head stay bfloat16."""

    title = "sparse weights"
    paper = Paper("2301.00774", "Frantar, Alistarh 2023", "algorithm 1; magnitude pruning is its baseline")
    claim = Claim("60 % of the weights removed in one shot with negligible increase in perplexity",
                  setup="OPT-175B and BLOOM-176B, without any retraining",
                  memory="0.36 of bfloat16 at 70 % zeros")
    lossless = False
    sparsity: float = control(0.7, 0.0, 0.99, soft=(0.3, 0.95), help="share of every matrix that is removed")
    method: str = control("sparsegpt", choices=("sparsegpt", "magnitude"),
                          help="sparsegpt makes up for what it removes on calibration text")
    damp: float = control(0.01, 1e-6, 1.0, soft=(0.005, 0.1), help="share of the mean diagonal added to the "
                          "second moments (sparsegpt)")
    refit: bool = control(True, help="set the weights that stay to their least squares optimum (sparsegpt; "
                          "left out where a matrix is too large for it)")
    samples: int = control(64, 1, 4096, soft=(16, 512), help="windows of calibration text (sparsegpt)")
    length: int = control(512, 16, 8192, soft=(128, 2048), unit="tokens",
                          help="tokens per window (sparsegpt)")
    text: str = control("bundled", help="bundled, or the path of a text file (sparsegpt)")

    def storage_bytes(self, rows: int, columns: int) -> int:
        from workbench.kernels.sparse_linear.cost import weight_bytes

        numbers = rows * columns
        return weight_bytes(rows, columns, numbers - round(self.sparsity * numbers))

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        """Alone, without calibration, the largest stay."""
        from workbench.runtime.packed_sparse import from_matrix
        from workbench.structure.masks import magnitude

        return from_matrix(weight, magnitude(weight, self.sparsity), bias)

    def prepare(self, settings: Settings, emit: Callable[[Event], None],
                cancelled: Callable[[], bool] | None) -> Any:
        if self.method == "magnitude":
            return None
        from workbench.structure import prepared

        return prepared.prepare(settings, prepared.SparseRecipe(
            self.sparsity, self.damp, self.refit, self.samples, self.length, self.text), emit, cancelled)
