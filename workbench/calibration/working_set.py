"""How much memory calibration needs at once, from the model's shape: the worst moment of one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.calibration.gptq import EXACT_COLUMNS
from workbench.calibration.walk import BATCH_TOKENS
from workbench.shape import ModelShape

if TYPE_CHECKING:
    import torch

    from workbench.calibration.recipe import Recipe


@dataclass(frozen=True)
class WorkingSet:
    """Bytes by what they hold."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def working_set(shape: ModelShape, recipe: Recipe, dtype: torch.dtype) -> WorkingSet:
    """What is in memory together while the widest matrix of a layer is rounded; no allocator's slack,
    no imports. The activations inside a layer are smaller than the factor there, so they do not count."""
    linears = [(rows, columns) for _, rows, columns in shape.linears()]
    layer = sum(r * c for r, c in linears) * dtype.itemsize
    most = max((_rounding(r, c) for r, c in linears), key=lambda parts: sum(parts.values()))
    codes = sum(r * c * recipe.bits // 8 for r, c in linears)
    batch = 2 * BATCH_TOKENS * shape.hidden * dtype.itemsize
    return WorkingSet({"layer weights": layer, **most, "codes of the layer": codes,
                       "one batch of states": batch})


def _rounding(rows: int, columns: int) -> dict[str, int]:
    """Second moments, their factor (a copy is alive while it is made), the matrix and what is left of it."""
    exact = columns <= EXACT_COLUMNS
    item = 8 if exact else 4
    return {"second moments": columns * columns * (8 if columns <= 1024 else 4),
            "their factor": 2 * columns * columns * item,
            "the matrix being rounded": rows * columns * (item + 1)}
