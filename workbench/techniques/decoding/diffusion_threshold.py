"""Confidence threshold: everything that the model is sure of, at least one token.

Fast-dLLM, Wu et al. 2025, arXiv:2505.22618, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding._diffusion import Decoder, Diffusion, View

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DiffusionThreshold(Diffusion):
    """Commits every prediction whose confidence reaches the threshold."""

    title = "confidence threshold"
    paper = Paper("2505.22618", "Wu et al. 2025", "3.3")
    claim = Claim("up to 13.3x from parallel decoding alone, 27.6x with its cache",
                  setup="LLaDA-8B, A100; against one token per step without a cache")
    lossless = False
    tau: float = control(0.9, 0.3, 0.999, step=0.01, help="confidence that a commit needs")

    def decoder(self, model: Any) -> Decoder:
        return Sure(self.tau)


class Sure(Decoder):
    """Commits what reaches ``tau``."""

    def __init__(self, tau: float) -> None:
        self._tau = tau

    def commit(self, tokens: torch.Tensor, confidence: torch.Tensor, view: View) -> torch.Tensor:
        return confidence >= self._tau
