"""Entropy threshold: commit where the whole distribution is narrow; how dParallel models decode.

Chen et al. 2025, arXiv:2509.26488, section 3.3. On a model that was not trained for certainty it is another
threshold; see the recipe for the training half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding._diffusion import Decoder, Diffusion, View

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DiffusionEntropy(Diffusion):
    """Commits every place whose distribution has less than ``limit`` nats of entropy."""

    title = "entropy threshold (dParallel)"
    paper = Paper("2509.26488", "Chen et al. 2025", "3.3")
    claim = Claim("256 to 30 steps on GSM8K, 75.7 to 76.1 points",
                  setup="LLaDA-8B-Instruct after certainty-forcing distillation")
    lossless = False
    limit: float = control(0.45, 0.01, 2.0, step=0.01, unit="nats", help="entropy of a commit at most")

    def decoder(self, model: Any) -> Decoder:
        return Narrow(self.limit)


class Narrow(Decoder):
    """Entropy is computed in ``score`` and used in ``commit``; the confidence stays the probability."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._entropy: torch.Tensor | None = None

    def score(self, logits: torch.Tensor, view: View) -> tuple[torch.Tensor, torch.Tensor]:
        probs = logits.softmax(-1)
        self._entropy = -(probs * probs.clamp_min(1e-12).log()).sum(-1)
        confidence, tokens = probs.max(-1)
        return tokens, confidence

    def commit(self, tokens: torch.Tensor, confidence: torch.Tensor, view: View) -> torch.Tensor:
        assert self._entropy is not None
        return self._entropy < self._limit
