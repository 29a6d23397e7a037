"""A small vision transformer trained for integers, and turned into them: accuracy that is real.

The float twin of :mod:`workbench.gallery.integer_vit` rounds where the integers will (weights to 8 bits per
matrix, activations to steps of 1/16) and lets gradients pass, as the paper trains (arXiv:2207.01405, section
3). The task is generated: which of six strokes an image of 16 x 16 holds, anywhere, in noise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from workbench.gallery.integer_vit import IntegerLinear, IntegerViT

SIDE, PATCH, CLASSES = 16, 4, 6
_STEP = 16.0  # activations are multiples of 1 / 16, as in the integer model
_DIM, _DEPTH, _HEADS = 32, 2, 2


def images(count: int, generator: torch.Generator, noise: float = 0.6) -> tuple[torch.Tensor, torch.Tensor]:
    """(int8 patches [count, 16, 16] in steps of 1 / 16, labels): bars, diagonals, a cross and a square of 7
    pixels at random places."""
    drawn = torch.zeros(CLASSES, 7, 7)
    drawn[0, 3], drawn[1, :, 3], drawn[2] = 1, 1, torch.eye(7)
    drawn[3], drawn[4] = torch.eye(7).flip(1), (drawn[0] + drawn[1]).clamp(max=1)
    drawn[5, [0, -1]] = drawn[5, :, [0, -1]] = 1
    labels = torch.randint(CLASSES, (count,), generator=generator)
    canvas = noise * torch.randn(count, SIDE, SIDE, generator=generator)
    places = torch.randint(SIDE - 6, (count, 2), generator=generator)
    for i in range(count):
        y, x = places[i].tolist()
        canvas[i, y:y + 7, x:x + 7] += 3 * drawn[labels[i]]
    codes = (canvas * _STEP).round().clamp(-128, 127).to(torch.int8)
    cut = codes.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)
    return cut.reshape(count, -1, PATCH * PATCH), labels


def _through(x: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """``rounded`` forwards, the gradient of ``x`` backwards."""
    return x + (rounded - x).detach()


def activation(x: torch.Tensor, low: float = -8.0, high: float = 127 / _STEP) -> torch.Tensor:
    limited = x.clamp(low, high)
    return _through(limited, (limited * _STEP).round() / _STEP)


class Linear8(nn.Linear):
    """Weights on 255 levels under one scale; ``wide`` keeps the sums as they are."""

    def forward(self, x: torch.Tensor, wide: bool = False) -> torch.Tensor:
        scale = self.weight.detach().abs().max() / 127
        y = F.linear(x, _through(self.weight, (self.weight / scale).round() * scale), self.bias)
        return y if wide else activation(y)


class Block(nn.Module):
    """As ``IntegerBlock``."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = Linear8(_DIM, 3 * _DIM), Linear8(_DIM, _DIM)
        self.up, self.down = Linear8(_DIM, 4 * _DIM), Linear8(4 * _DIM, _DIM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(norm(x)).view(b, n, 3, _HEADS, -1).permute(2, 0, 3, 1, 4)
        root = max(1, round((d // _HEADS) ** 0.5))
        mixed = activation((q @ k.transpose(-1, -2) / root).softmax(-1) @ v)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, n, d))
        h = self.up(norm(x))
        out: torch.Tensor = x + self.down(activation(h * torch.sigmoid(1.702 * h)))
        return out


def norm(x: torch.Tensor) -> torch.Tensor:
    return activation(F.layer_norm(x, x.shape[-1:]))


class FloatTwin(nn.Module):
    """As ``IntegerViT``: int8 patches [B, 16, 16] -> class scores [B, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = Linear8(PATCH * PATCH, _DIM)
        self.places = nn.Parameter(0.3 * torch.randn(1, (SIDE // PATCH) ** 2, _DIM))
        self.blocks = nn.Sequential(*(Block() for _ in range(_DEPTH)))
        self.head = Linear8(_DIM, CLASSES)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.embed(patches.float() / _STEP) + activation(self.places))
        return self.head(norm(x), wide=True).mean(1)


def train(steps: int = 250, batch: int = 64, seed: int = 0) -> FloatTwin:
    """The twin after ``steps`` of Adam on fresh images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, made = FloatTwin(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        patches, labels = images(batch, made)
        loss = F.cross_entropy(model(patches), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()
    return model.eval()


@torch.no_grad()
def integers(twin: FloatTwin) -> IntegerViT:
    """The trained twin without a float in it."""
    model = IntegerViT((SIDE // PATCH) ** 2, _DIM, _DEPTH, _HEADS, CLASSES, PATCH * PATCH)
    model.places.copy_((twin.places * _STEP).round().clamp(-128, 127).to(torch.int32))
    _take(model.embed, twin.embed)
    _take(model.head, twin.head)
    blocks: Any = model.blocks
    for mine, theirs in zip(blocks, twin.blocks, strict=True):
        _take(mine.attention.qkv, theirs.qkv)
        _take(mine.attention.out, theirs.out)
        _take(mine.up, theirs.up)
        _take(mine.down, theirs.down)
    return model.eval()


def _take(mine: IntegerLinear, theirs: Any) -> None:
    mine.take(theirs.weight, theirs.bias)


@torch.no_grad()
def accuracy(model: nn.Module, count: int = 512, seed: int = 1) -> float:
    """Share of ``count`` fresh images that are named right."""
    patches, labels = images(count, torch.Generator().manual_seed(seed))
    return float((model(patches).argmax(-1) == labels).float().mean())
