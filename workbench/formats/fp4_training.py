"""Training with four-bit products, emulated: the choices of arXiv:2509.17791 (Hu et al. 2025) as one setting.

The three products of a linear layer (y = x W^T, dx = dy W, dW = dy^T x) read operands that are quantized in
blocks along the axis that each of them contracts, so every tensor is quantized twice, differently. The
gradient passes the quantizers unchanged (straight-through). Numbers are those of 4-bit hardware; time is not:
everything here runs in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workbench.errors import SettingsError
from workbench.formats import blocks, elements, hadamard
from workbench.formats.blocks import Format
from workbench.formats.scales import Rule

PRODUCTS = ("forward", "input_gradient", "weight_gradient")


@dataclass(frozen=True)
class Recipe:
    """``scale``: e8m0, e4m3, ue5m3 or fp32. ``tensor_scale`` only with e4m3 and ue5m3. ``hadamard``: width
    of the random rotation of both operands of the two gradient products, 0: none. ``stochastic``: which
    operands are rounded stochastically: none, gradients or all. ``products``: which run in four bits."""

    scale: str = "e4m3"
    block: int = 16
    tensor_scale: bool = True
    hadamard: int = 16
    stochastic: str = "gradients"
    products: tuple[str, ...] = PRODUCTS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.stochastic not in ("none", "gradients", "all"):
            raise SettingsError(f"stochastic={self.stochastic!r} is not valid; choose none, gradients or all")
        if set(self.products) - set(PRODUCTS):
            raise SettingsError(f"the products of a layer are {', '.join(PRODUCTS)}")
        if self.hadamard and self.hadamard & (self.hadamard - 1):
            raise SettingsError(f"hadamard={self.hadamard} is not a power of two; choose 16, 32 or 0")
        self.format()

    def format(self) -> Format:
        tensor = self.tensor_scale and self.scale in ("e4m3", "ue5m3")
        return Format("fp4", elements.E2M1, self.block, Rule(self.scale, tensor))


def product(a: torch.Tensor, b: torch.Tensor, recipe: Recipe, rotate: bool, noisy: tuple[bool, bool],
            step: int) -> torch.Tensor:
    """``a`` [M, K] times ``b`` [N, K] transposed, both in four bits along K; float32 sums.

    ``noisy``: which operand is rounded stochastically; ``step`` chooses the noise and the signs."""
    width = recipe.hadamard
    if rotate and width and a.shape[1] % width == 0:
        seed = recipe.seed * 1_000_003 + step
        a, b = hadamard.rotate(a, width, seed), hadamard.rotate(b, width, seed)
    form = recipe.format()
    made = torch.Generator(device=a.device).manual_seed(recipe.seed * 7919 + step)
    sides = []
    for side, noise in zip((a, b), noisy, strict=True):
        drawn = torch.rand(side.shape, generator=made, device=side.device) if noise else None
        sides.append(blocks.fake(side.contiguous(), form, noise=drawn))
    return sides[0] @ sides[1].T


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, recipe: Recipe, step: int) -> torch.Tensor:
        ctx.save_for_backward(x, w)
        ctx.recipe, ctx.step = recipe, step
        every = recipe.stochastic == "all"
        if "forward" not in recipe.products:
            return x @ w.T
        return product(x, w, recipe, False, (every, every), 3 * step)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        (dy,), (x, w), recipe = grads, ctx.saved_tensors, ctx.recipe
        every, some = recipe.stochastic == "all", recipe.stochastic != "none"
        if "input_gradient" in recipe.products:
            dx = product(dy, w.T, recipe, True, (some, every), 3 * ctx.step + 1)
        else:
            dx = dy @ w
        if "weight_gradient" in recipe.products:
            dw = product(dy.T, x.T, recipe, True, (some, every), 3 * ctx.step + 2)
        else:
            dw = dy.T @ x
        return dx, dw, None, None


class Linear4(nn.Linear):
    """``nn.Linear`` whose products run as ``recipe`` says; the weight itself stays float32."""

    def __init__(self, inner: int, outer: int, recipe: Recipe, bias: bool = True) -> None:
        super().__init__(inner, outer, bias)
        self.recipe, self.step = recipe, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.step += self.training
        y: torch.Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), self.weight, self.recipe, self.step)
        y = y.view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def convert(model: nn.Module, recipe: Recipe, keep: tuple[str, ...] = ()) -> int:
    """Replaces every linear layer but the first, the last and those whose name is in ``keep``, in place,
    with the same weights. Returns how many. Raises SettingsError where none is left."""
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    inner = [(n, m) for n, m in found[1:-1] if n not in keep]
    if not inner:
        raise SettingsError("four-bit training leaves the first and last layer as they are, and this model "
                            "has no linear layer between")
    for name, module in inner:
        made = Linear4(module.in_features, module.out_features, recipe, module.bias is not None)
        made.load_state_dict(module.state_dict())
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], made)
    return len(inner)
