"""Masked-diffusion decoding: which masked positions to commit at each step.

One forward looks at the whole canvas and predicts every masked position at once. A decoder decides
which predictions to keep; what is kept stays. One position at a time is exact and slow; many at a time
is quick and wrong wherever the tokens depend on each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from workbench.techniques.decoding import Decoding

if TYPE_CHECKING:
    import torch

    from workbench.machine import Machine
    from workbench.shape import ModelShape


@dataclass
class View:
    """What a decoder sees of one canvas. All tensors are 1-D over the canvas' places [L].

    ``tokens`` int64, ``masked`` bool: still open; ``active`` bool: open and in the block that is being
    filled; ``step``: forwards so far; ``first``: the first step of this block."""

    tokens: torch.Tensor
    masked: torch.Tensor
    active: torch.Tensor
    step: int
    first: bool


class Forward(Protocol):
    """``forward(rows int64 [n, L]) -> float32 logits [n, L, V]``, the mask's own logit at -inf."""

    def __call__(self, rows: torch.Tensor) -> torch.Tensor: ...


class Decoder:
    """The mutable half of a method. Override ``score`` and ``commit``, or the whole ``step``."""

    def score(self, logits: torch.Tensor, view: View) -> tuple[torch.Tensor, torch.Tensor]:
        """``logits`` [L, V] -> the token and its confidence for every place: the argmax and its
        probability without temperature."""
        probs = logits.softmax(-1)
        confidence, tokens = probs.max(-1)
        return tokens, confidence

    def commit(self, tokens: torch.Tensor, confidence: torch.Tensor, view: View) -> torch.Tensor:
        """bool [L]: which active places to fix now. None is allowed; then the surest one is."""
        raise NotImplementedError

    def step(self, view: View, forward: Forward) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One forward and its decision: tokens [L], confidence [L], committed bool [L]."""
        logits = forward(view.tokens[None])[0]
        tokens, confidence = self.score(logits, view)
        chosen = self.commit(tokens, confidence, view) & view.active
        if not bool(chosen.any()):
            chosen = top(confidence, view.active, 1)
        return tokens, confidence, chosen

    def ends(self, tokens: torch.Tensor, confidence: torch.Tensor, view: View) -> int | None:
        """A place from which on the canvas is given up (the text has ended before), or None."""
        return None


def top(confidence: torch.Tensor, allowed: torch.Tensor, count: int) -> torch.Tensor:
    """bool [L]: the ``count`` surest allowed places; of equals the one further left."""
    import torch

    order = confidence.masked_fill(~allowed, -1.0).argsort(descending=True, stable=True)
    chosen = torch.zeros_like(allowed)
    chosen[order[:min(count, int(allowed.sum()))]] = True
    return chosen


@dataclass(frozen=True)
class Diffusion(Decoding):
    """A decoding method of masked-diffusion models."""

    def applies(self, shape: ModelShape, machine: Machine) -> str | None:
        if not shape.canvas:
            return (f"{self.name()} fills the canvas of a masked-diffusion model and this one writes "
                    "from left to right; open wb-dlm, or choose another decoding")
        return None

    def start(self, runtime: Any) -> None:
        """Nothing is drafted: the canvas loop asks for :meth:`decoder`."""

    def decoder(self, model: Any) -> Decoder:
        """The decoder of one canvas. ``model``: the opened diffusion model (for learnt parts)."""
        raise NotImplementedError
