"""Integer-only vision transformer (I-ViT): shifts instead of exp, GELU and square root.

Every value between the image's quantization and the logits is an integer with a scale that is known
before the run: matrix products of int8 operands into int32, dyadic requantization, Shiftmax, ShiftGELU
and I-LayerNorm. The integer square root is Newton's, run until it stops falling, because a fixed
number of steps from a fixed start is wrong for small values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

PAPER = "I-ViT, arXiv:2207.01405"
LEFT_OUT = "training: weights are random here; _integer_vit_training.py trains a small one and converts it"
ONLY_FLOAT32 = "its weights are integers"

_BITS = 8
#: log2 of the scale of activations, of probabilities, and of the factors of a requantization.
_ACT, _PROB, _DYADIC = 4, 15, 16


def requantize(x: torch.Tensor, factor: int, bits: int = _BITS) -> torch.Tensor:
    """round(x * factor / 2^16) clamped to ``bits``: a multiplication and a shift of int64."""
    y = (x.long() * factor + (1 << (_DYADIC - 1))) >> _DYADIC
    return y.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1).int()


def shift_exp(x: torch.Tensor, unit: int, n: int) -> torch.Tensor:
    """exp of x / unit for x <= 0, as an integer with scale 2^-n.

    x * log2(e) by shifts (1 + 1/2 - 1/16), then 2 to the whole part by a shift and to the rest by a
    straight line."""
    x = x.long()
    x = x + (x >> 1) - (x >> 4)
    x = x.clamp(min=-n * unit)
    whole = torch.div(-x, unit, rounding_mode="floor")
    rest = -x - whole * unit
    return ((2 * unit - rest) << n) // (2 * unit) >> whole


def shiftmax(scores: torch.Tensor, unit: int, n: int = 15) -> torch.Tensor:
    """Softmax over the last axis of integers with scale 1/unit -> integers with scale 2^-15."""
    e = shift_exp(scores - scores.amax(-1, keepdim=True), unit, n)
    total = e.sum(-1, keepdim=True)
    return ((e << _PROB) // total).int()


def shift_gelu(x: torch.Tensor, unit: int, n: int = 23) -> torch.Tensor:
    """x * sigmoid(1.702 x), x with scale 1/unit; sigmoid from two shift-exponentials.

    1.702 by shifts is 1 + 1/2 + 1/8 + 1/16 = 1.6875. The larger of 0 and x is subtracted per value, so
    that small values in a row of large ones keep their precision."""
    x = x.long()
    p = x + (x >> 1) + (x >> 3) + (x >> 4)
    top = p.clamp(min=0)
    up, down = shift_exp(p - top, unit, n), shift_exp(-top, unit, n)
    return (x * ((up << _PROB) // (up + down)) >> _PROB).int()


def integer_sqrt(v: torch.Tensor) -> torch.Tensor:
    """Exact floor of the square root of int64 values >= 0."""
    k = torch.full_like(v, 1 << 31)
    while True:
        following = (k + v // k.clamp(min=1)) >> 1
        if not (following < k).any():
            return k
        k = torch.minimum(k, following)


class IntegerLinear(nn.Module):
    """int8 ``[.., in]`` with scale 2^-4 -> int8 with scale 2^-4, through an int32 product."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        weight = torch.randn(outer, inner) / inner**0.5
        self.scale = float(weight.abs().max() / 127)
        self.register_buffer("weight", (weight / self.scale).round().to(torch.int8).t().contiguous())
        self.register_buffer("bias", torch.zeros(outer, dtype=torch.int32))
        self.factor = round(self.scale * (1 << _DYADIC))

    @torch.no_grad()
    def take(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """A float layer's numbers: int8 under one scale, the bias at the scale of the sums."""
        self.scale = float(weight.abs().max() / 127)
        self.weight.copy_((weight / self.scale).round().to(torch.int8).t())
        self.bias.copy_((bias / self.scale * (1 << _ACT)).round().to(torch.int32))
        self.factor = round(self.scale * (1 << _DYADIC))

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """int32 sums."""
        flat = x.to(torch.int8).reshape(-1, x.shape[-1])
        return torch._int_mm(flat, self.weight).view(*x.shape[:-1], -1) + self.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return requantize(self.product(x), self.factor)


class IntegerNorm(nn.Module):
    """LayerNorm over integers: mean, variance and square root in whole numbers; scale 2^-4 out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.long() << 8
        centred = x - x.sum(-1, keepdim=True) // x.shape[-1]
        deviation = integer_sqrt((centred * centred).sum(-1, keepdim=True) // x.shape[-1]).clamp(min=1)
        return ((centred << _ACT) // deviation).clamp(-128, 127).int()


class IntegerAttention(nn.Module):
    """Integer scores, Shiftmax, integer mixture."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, IntegerLinear(dim, 3 * dim), IntegerLinear(dim, dim)
        self.root = max(1, round((dim // heads) ** 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).long()
        scores = (q[..., :, None, :] * k[..., None, :, :]).sum(-1) // self.root
        weights = shiftmax(scores, 1 << 2 * _ACT).long()
        mixed = (weights[..., :, :, None] * v[..., None, :, :]).sum(-2) >> _PROB
        return self.out(mixed.transpose(1, 2).reshape(b, n, d).clamp(-128, 127).int())


class IntegerBlock(nn.Module):
    """Pre-norm block; residuals are kept at 16 bits."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = IntegerNorm(), IntegerAttention(dim, heads)
        self.up, self.down = IntegerLinear(dim, 4 * dim), IntegerLinear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x + self.attention(self.norm(x))).clamp(-32768, 32767)
        h = shift_gelu(self.up(self.norm(x)), 1 << _ACT)
        return (x + self.down(h)).clamp(-32768, 32767)


class IntegerViT(nn.Module):
    """int8 patches ``[B, N, 48]`` with scale 2^-4 -> int32 class sums ``[B, classes]``."""

    places: torch.Tensor

    def __init__(self, patches: int = 64, dim: int = 96, depth: int = 4, heads: int = 4,
                 classes: int = 10, inner: int = 48) -> None:
        super().__init__()
        self.embed = IntegerLinear(inner, dim)
        self.register_buffer("places", torch.randint(-8, 8, (1, patches, dim), dtype=torch.int32))
        self.blocks = nn.Sequential(*(IntegerBlock(dim, heads) for _ in range(depth)))
        self.norm, self.head = IntegerNorm(), IntegerLinear(dim, classes)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.blocks(self.embed(patches) + self.places))
        return self.head.product(x).sum(1) // x.shape[1]


def make(batch: int) -> tuple[nn.Module, Any]:
    return IntegerViT(), torch.randint(-127, 128, (batch, 64, 48), dtype=torch.int8)
