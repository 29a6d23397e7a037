"""Static decoding: a fixed number of the surest predictions at every step.

LLaDA's low-confidence remasking, Nie et al. 2025, arXiv:2502.09992, section 2.4. One a step is the
reference that every parallel decoder is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding._diffusion import Decoder, Diffusion, View, top

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DiffusionStatic(Diffusion):
    """The ``count`` surest predictions at each step, whatever their confidence."""

    title = "static"
    paper = Paper("2502.09992", "Nie et al. 2025", "2.4")
    claim = Claim("the reference: one token per forward")
    lossless = False
    count: int = control(1, 1, 16, unit="tokens", help="tokens committed per forward")

    def decoder(self, model: Any) -> Decoder:
        return Surest(self.count)


class Surest(Decoder):
    """Commits the ``count`` most confident places."""

    def __init__(self, count: int) -> None:
        self._count = count

    def commit(self, tokens: torch.Tensor, confidence: torch.Tensor, view: View) -> torch.Tensor:
        return top(confidence, view.active, self._count)
