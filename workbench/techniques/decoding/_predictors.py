"""SpecEE's predictors: has the answer settled at this layer? Looked at through a few candidates only.

Xu et al. 2025, arXiv:2504.08850, sections 4 and 5. For K candidate tokens: their logits at this layer (K rows
of the head instead of the vocabulary), their softmax, and how it moved since the layer that was looked at
before; a small network per layer turns these 3 K numbers into a probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import ModelError

if TYPE_CHECKING:
    import torch

HIDDEN = 32
_STEPS, _RATE = 300, 0.01


@dataclass
class Predictors:
    """``weights[layer]``: (mean [F], scale [F], w1 [F, H], b1 [H], w2 [H], b2 []) float32, F = 3 K.

    ``first[layer]``: share of the training tokens whose answer settled at this layer and not before."""

    candidates: int
    weights: dict[int, tuple[torch.Tensor, ...]]
    first: dict[int, float]

    @property
    def layers(self) -> list[int]:
        return sorted(self.weights)

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for w in self.weights.values() for t in w)

    def __call__(self, layer: int, features: torch.Tensor) -> torch.Tensor:
        """[..., F] -> probability [...] that this layer already says what the last one will."""
        mean, scale, w1, b1, w2, b2 = self.weights[layer]
        return (((features - mean) * scale @ w1 + b1).relu() @ w2 + b2).sigmoid()

    def best_layers(self, count: int) -> list[int]:
        """The layers at which most answers settle, ascending."""
        chosen = sorted(self.layers, key=lambda n: -self.first.get(n, 0.0))[:count]
        return sorted(chosen)

    def save(self, path: Path) -> None:
        import json

        from safetensors.torch import save_file

        names = ("mean", "scale", "w1", "b1", "w2", "b2")
        tensors = {f"{layer}.{name}": t.contiguous() for layer, w in self.weights.items()
                   for name, t in zip(names, w, strict=True)}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        save_file(tensors, part, {"candidates": str(self.candidates), "first": json.dumps(self.first)})
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Predictors:
        """Raises ModelError when the file is not what :meth:`save` wrote."""
        import json

        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                about = file.metadata()
                layers = sorted({int(k.partition(".")[0]) for k in file.keys()})  # noqa: SIM118
                weights = {n: tuple(file.get_tensor(f"{n}.{name}") for name in
                                    ("mean", "scale", "w1", "b1", "w2", "b2")) for n in layers}
            first = {int(k): float(v) for k, v in json.loads(about["first"]).items()}
            return cls(int(about["candidates"]), weights, first)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path} does not hold SpecEE predictors; delete it, and they are trained "
                             "again") from error


def features(logits: torch.Tensor, before: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """``logits`` [..., K] of the candidates, and their softmax at the layer looked at before -> ([..., 3 K],
    softmax)."""
    import torch

    p = logits.softmax(-1)
    moved = p - (torch.full_like(p, 1 / p.shape[-1]) if before is None else before)
    return torch.cat([logits, p, moved], -1), p


def train(found: dict[int, torch.Tensor], settled: dict[int, torch.Tensor], candidates: int,
          said: Callable[[int, int], None], check: Callable[[], None]) -> Predictors:
    """``found[layer]`` [n, F] features and ``settled[layer]`` bool [n] -> predictors, by full-batch Adam on
    the cross entropy. ``said(done, total)`` after each layer; ``check`` raises to cancel."""
    weights: dict[int, tuple[torch.Tensor, ...]] = {}
    for done, layer in enumerate(sorted(found)):
        weights[layer] = _one(found[layer], settled[layer], check)
        said(done + 1, len(found))
    return Predictors(candidates, weights, _first(settled))


def _one(x: torch.Tensor, y: torch.Tensor, check: Callable[[], None]) -> tuple[torch.Tensor, ...]:
    import torch
    import torch.nn.functional as F

    with torch.inference_mode(False), torch.enable_grad():
        x, y = x.float().clone(), y.float().clone()
        mean, scale = x.mean(0), 1.0 / x.std(0).clamp_min(1e-3)
        dice = torch.Generator().manual_seed(0)
        size = x.shape[1]
        parts = [torch.randn(size, HIDDEN, generator=dice) * (2 / size) ** 0.5, torch.zeros(HIDDEN),
                 torch.randn(HIDDEN, generator=dice) * HIDDEN ** -0.5, torch.zeros(())]
        for p in parts:
            p.requires_grad_(True)
        inputs = (x - mean) * scale
        adam = torch.optim.Adam(parts, lr=_RATE, weight_decay=1e-4)
        for _ in range(_STEPS):
            check()
            w1, b1, w2, b2 = parts
            loss = F.binary_cross_entropy_with_logits((inputs @ w1 + b1).relu() @ w2 + b2, y)
            adam.zero_grad()
            loss.backward()
            adam.step()
        return (mean, scale, *(p.detach().clone() for p in parts))


def _first(settled: dict[int, torch.Tensor]) -> dict[int, float]:
    """Share of tokens that settle at each layer and at none before."""
    shares: dict[int, float] = {}
    done = None
    for layer in sorted(settled):
        now = settled[layer] if done is None else settled[layer] & ~done
        shares[layer] = float(now.float().mean())
        done = settled[layer] if done is None else done | settled[layer]
    return shares


def scheduled(static: Sequence[int], recent: Sequence[int], layers: Sequence[int], reach: int) -> list[int]:
    """The layers to look at: the static ones and the neighbourhood of where the last tokens left."""
    near = {n for layer in recent for n in range(layer - reach, layer + reach + 1)}
    return sorted({*static, *(n for n in layers if n in near)})
