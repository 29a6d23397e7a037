"""The consumer that rounds: every linear layer of a decoder layer to codes, by GPTQ or to nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from workbench.calibration.gptq import Rounded, output_square, proxy_error, solve
from workbench.calibration.grid import Grid
from workbench.calibration.grids import dequantize, round_to_nearest
from workbench.calibration.recipe import Recipe
from workbench.calibration.scaling import scale_layer
from workbench.calibration.walk import Pass
from workbench.errors import ModelError, SettingsError
from workbench.runtime.loading import return_freed

if TYPE_CHECKING:
    from workbench.calibration.layers import Layer
    from workbench.calibration.statistics import Statistics

SCALES = "scales"
#: What ``NAME.report`` holds, float64: squared output error per token of these codes and of plain
#: rounding on the same grid, the output's own square (all under the calibration inputs), the damping
#: that was needed, inputs that are always zero, calibration tokens.
REPORT = ("error", "nearest", "signal", "damp", "dead", "tokens")


class Quantizer:
    """Passes: one for the scales if the recipe has any; then one per group of matrices that share an
    input (``sequential``), or one for all. ``head``: width of one head's values."""

    def __init__(self, recipe: Recipe, head: int = 0) -> None:
        self.recipe, self.head = recipe, head
        self._found: dict[str, torch.Tensor] = {}

    def passes(self, groups: list[list[str]]) -> list[Pass]:
        everything = tuple(n for names in groups for n in names)
        first = [Pass(SCALES, everything)] if self.recipe.scaling else []
        if self.recipe.sequential:
            return first + [Pass(", ".join(names), tuple(names)) for names in groups]
        return [*first, Pass("all matrices", everything)]

    def observed(self, layer: Layer, done: Pass, statistics: dict[str, Statistics]) -> None:
        if done.label == SCALES:
            chosen = scale_layer(layer, statistics, self.recipe.grid, self.head)
            self._found["scales.report"] = torch.tensor(list(chosen.values()), dtype=torch.float64)
            return
        for name in done.names:
            known = statistics[name]
            assert known.gram is not None
            self._round(layer, name, known.gram, known.tokens)

    def keep(self, layer: Layer) -> dict[str, torch.Tensor]:
        kept, self._found = self._found, {}
        missing = [name for name in layer.linears if f"{name}.planes" not in kept]
        if missing:
            raise ModelError(f"{layer.name}.{missing[0]} was never reached by the calibration text, so it "
                             "cannot be calibrated; choose int4 or int8 weights")
        for path in layer.changed:
            kept[path] = layer.module.get_parameter(path).detach().clone()
        return kept

    def _round(self, layer: Layer, name: str, gram: torch.Tensor, tokens: int) -> None:
        from workbench.kernels.bit_planes import planes

        linear = layer.linears[name]
        weight = linear.weight.detach()
        grid = fitting(self.recipe.grid, weight.shape[1], f"{layer.name}.{name}")
        plain = round_to_nearest(weight, grid)
        nearest = proxy_error(weight, *plain, grid.bits, gram)
        if self.recipe.rounding == "nearest":
            rounded = Rounded(*plain, nearest, 0.0, 0)
        else:
            del plain
            return_freed(weight.device)  # what the products above left in the heap, before two factors of H
            rounded = solve(weight, gram, grid, act_order=self.recipe.act_order, damp=self.recipe.damp)
            return_freed(weight.device)
        error = proxy_error(weight, rounded.q, rounded.pairs, grid.bits, gram)
        signal = output_square(weight, gram)
        return_freed(weight.device)
        self._found[f"{name}.planes"] = planes.pack(rounded.q, grid.bits)
        self._found[f"{name}.pairs"] = rounded.pairs
        self._found[f"{name}.report"] = torch.tensor(
            [error / tokens, nearest / tokens, signal / tokens, rounded.damp, rounded.dead, tokens],
            dtype=torch.float64)
        linear.weight.copy_(dequantize(rounded.q, rounded.pairs, grid.bits))


def fitting(grid: Grid, columns: int, name: str) -> Grid:
    """``grid`` where it divides; SettingsError naming the matrix where it does not."""
    if columns % (grid.group or columns) == 0 and columns % 8 == 0:
        return grid
    if columns % 8:
        raise SettingsError(f"{name} has {columns} columns, which are no multiple of 8, so its codes cannot "
                            "be packed; choose int8 weights")
    raise SettingsError(f"{name} has {columns} columns, which the group of {grid.group} does not divide; "
                        "choose a group that does, or group=0 for one scale per row")
