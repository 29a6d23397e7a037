"""Post-training quantization to small floats with a searched range and learned rounding.

The format of each tensor is E``e``M``m`` with a real-valued exponent bias, found on a grid by squared error;
a number's step is 2^(p - bias - m) with p = max(floor(log2 |x| + bias), 1). Weights then learn which way to
round: w = step (floor(w / step) + h), h = clip(1.2 sigmoid(v) - 0.1, 0, 1), by the layer's output error plus
a term that drives h to 0 or 1 (Chen et al. 2024, arXiv:2408.06995, section 4; rounding after Nagel et al.
2020, arXiv:2004.10568). Emulated: values are rounded, products stay float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from workbench.errors import SettingsError

#: Splits that are tried at each width: (exponent bits, mantissa bits).
SPLITS = {4: ((1, 2), (2, 1), (3, 0)), 6: ((2, 3), (3, 2), (4, 1)), 8: ((2, 5), (3, 4), (4, 3), (5, 2))}
#: Largest magnitudes that are tried, as shares of the tensor's own.
SHARES = tuple(i / 40 for i in range(12, 41))


@dataclass(frozen=True)
class Grid:
    """``exponent`` 0: integers, step 2^(1 - bias - mantissa)."""

    exponent: int
    mantissa: int
    bias: float

    @property
    def largest(self) -> float:
        """The largest level."""
        if not self.exponent:
            return float((2**self.mantissa - 1) * 2.0 ** (1 - self.bias - self.mantissa))
        top = 2**self.exponent - 1
        return float((2 - 2.0**-self.mantissa) * 2.0 ** (top - self.bias))

    def step(self, x: torch.Tensor) -> torch.Tensor:
        """Distance of the levels around each number."""
        if not self.exponent:
            return torch.full_like(x, 2.0 ** (1 - self.bias - self.mantissa))
        power = torch.floor(torch.log2(x.abs().clamp(min=1e-30)) + self.bias).clamp(1, 2**self.exponent - 1)
        return torch.exp2(power - self.bias - self.mantissa)

    def round(self, x: torch.Tensor) -> torch.Tensor:
        """To the nearest level."""
        limited = x.clamp(-self.largest, self.largest)
        step = self.step(limited)
        return (limited / step).round() * step


def grid_of(exponent: int, mantissa: int, largest: float) -> Grid:
    """The grid whose largest level is ``largest``."""
    import math

    unit = Grid(exponent, mantissa, 0.0).largest
    return Grid(exponent, mantissa, math.log2(unit / max(largest, 1e-30)))


def search(x: torch.Tensor, bits: int, integers: bool = False) -> Grid:
    """The grid of least squared error for ``x``: every split of ``bits`` at every share of its largest
    magnitude. ``integers``: even steps only. Raises SettingsError."""
    if bits not in SPLITS:
        raise SettingsError(f"small floats have 4, 6 or 8 bits here, not {bits}")
    splits = ((0, bits - 1),) if integers else SPLITS[bits]
    most, sample = float(x.abs().max()), x.flatten()[:: max(1, x.numel() // 20_000)]
    found = [grid_of(e, m, share * most) for e, m in splits for share in SHARES]
    return min(found, key=lambda grid: float((grid.round(sample) - sample).square().sum()))


def learn(layer: nn.Module, inputs: torch.Tensor, grid: Grid, steps: int = 600,
          weight_of_rounding: float = 0.01, seed: int = 0, cancelled: Callable[[], bool] = lambda: False
          ) -> torch.Tensor:
    """The layer's weight on ``grid``, rounded so that its outputs on ``inputs`` change least.

    ``layer``: Linear or Conv2d; ``inputs``: what it reads, batch first. The better of learned and nearest
    is returned, judged by the output error on ``inputs``. Raises SettingsError, Cancelled."""
    from workbench.errors import Cancelled

    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise SettingsError("rounding is learned for linear and convolution layers, not "
                            f"{type(layer).__name__}")
    weight = layer.weight.detach().clamp(-grid.largest, grid.largest)
    step = grid.step(weight)
    low = torch.floor(weight / step)
    share = ((weight / step - low) + 0.1) / 1.2
    v = torch.log(share / (1 - share)).clamp(-8, 8).requires_grad_()
    optimizer, made = torch.optim.Adam([v], 3e-2), torch.Generator().manual_seed(seed)
    wanted = _apply(layer, inputs, layer.weight.detach())
    power = wanted.square().mean().clamp(min=1e-12)
    with torch.enable_grad():
        for i in range(steps):
            if cancelled():
                raise Cancelled("cancelled")
            at = torch.randint(len(inputs), (min(64, len(inputs)),), generator=made)
            h = (1.2 * torch.sigmoid(v) - 0.1).clamp(0, 1)
            away = (_apply(layer, inputs[at], step * (low + h)) - wanted[at]).square().mean() / power
            beta = 2 + 18 * max(0.0, 1 - (i - 0.2 * steps) / (0.8 * steps)) if i > 0.2 * steps else 20.0
            loss = away + weight_of_rounding * (1 - (2 * h - 1).abs().pow(beta)).mean() * (i > 0.2 * steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    learned = (step * (low + (v.detach() >= 0).float())).clamp(-grid.largest, grid.largest)
    nearest = grid.round(layer.weight.detach())
    errors = [float((_apply(layer, inputs, w) - wanted).square().sum()) for w in (learned, nearest)]
    return learned if errors[0] <= errors[1] else nearest


def _apply(layer: nn.Module, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.linear(x, weight)


class RoundedInput(nn.Module):
    """A layer whose inputs are rounded on a grid that was fixed before."""

    def __init__(self, layer: nn.Module, grid: Grid) -> None:
        super().__init__()
        self.layer, self.grid = layer, grid

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(self.grid.round(x))
        return y


@torch.no_grad()
def quantize(model: nn.Module, calibrate: Callable[[nn.Module], object], weight_bits: int = 4,
             activation_bits: int = 8, learned: bool = True, integers: bool = False, steps: int = 600,
             keep: tuple[str, ...] = (), cancelled: Callable[[], bool] = lambda: False) -> dict[str, Grid]:
    """Rounds weights and inputs of every linear and convolution layer of ``model`` in place, front to back;
    each layer sees the rounding of the earlier ones. ``calibrate(model)`` runs it on calibration inputs.
    ``keep``: names that stay. Returns the weights' grids by name. Raises SettingsError, Cancelled."""
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and n not in keep]
    if not names:
        raise SettingsError("the model has no linear or convolution layer to quantize")
    grids = {}
    for name in names:
        layer: Any = model.get_submodule(name)
        seen = _inputs(model, layer, calibrate)
        grids[name] = grid = search(layer.weight, weight_bits, integers)
        rounded = learn(layer, seen, grid, steps, cancelled=cancelled) if learned else \
            grid.round(layer.weight.detach())
        layer.weight.copy_(rounded)
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2],
                RoundedInput(layer, search(seen, activation_bits, integers)))
    return grids


def _inputs(model: nn.Module, layer: nn.Module, calibrate: Callable[[nn.Module], object], most: int = 2048
            ) -> torch.Tensor:
    """What the layer reads while ``calibrate`` runs: at most ``most`` inputs, batch first."""
    seen: list[torch.Tensor] = []
    flat = isinstance(layer, nn.Linear)
    handle = layer.register_forward_pre_hook(
        lambda m, args: seen.append(args[0].detach().flatten(0, -2) if flat else args[0].detach()))
    try:
        calibrate(model)
    finally:
        handle.remove()
    if not seen:
        raise SettingsError("the calibration inputs never reach one of the layers; choose others")
    whole = torch.cat(seen)
    limit = most if flat else 128
    return whole[torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[:limit]]
