"""CreditDecoding: a prediction that keeps coming back earns credit.

Wang et al. 2025, arXiv:2510.06133. Needs a history: on a canvas that a threshold fills in three steps there
is little to earn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding._diffusion import Decoder, Diffusion, View

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DiffusionCredit(Diffusion):
    """Adds log(1 + credit) to the logits; credit grows while a token stays the first choice."""

    title = "CreditDecoding"
    paper = Paper("2510.06133", "Wang et al. 2025")
    claim = Claim("5.48x and +0.48 points over one token per step",
                  setup="LLaDA-8B-Instruct, eight benchmarks")
    lossless = False
    tau: float = control(0.9, 0.3, 0.999, step=0.01, help="confidence that a commit needs")
    alpha: float = control(0.7, 0.0, 4.0, step=0.1, help="weight of the credit")
    beta: float = control(0.8, 0.0, 1.0, step=0.05, help="what is left of the credit at each step")
    power: float = control(0.2, 0.0, 1.0, step=0.05, help="credit of a first choice: p to this power")

    def decoder(self, model: Any) -> Decoder:
        return Creditor(self)


class Creditor(Decoder):
    """``_credit`` float32 [L, V], empty at a block's start."""

    def __init__(self, choice: DiffusionCredit) -> None:
        self._choice = choice
        self._credit: torch.Tensor | None = None
        self.overruled = 0

    def score(self, logits: torch.Tensor, view: View) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        choice = self._choice
        if view.first or self._credit is None:
            self._credit = torch.zeros_like(logits)
        else:
            self._credit *= choice.beta
        sure, best = logits.softmax(-1).max(-1)
        places = view.masked.nonzero()[:, 0]
        self._credit[places, best[places]] += sure[places] ** choice.power
        confidence, tokens = (logits + choice.alpha * torch.log1p(self._credit)).softmax(-1).max(-1)
        self.overruled += int(((tokens != best) & view.active).sum())
        return tokens, confidence

    def commit(self, tokens: torch.Tensor, confidence: torch.Tensor, view: View) -> torch.Tensor:
        return confidence >= self._choice.tau
