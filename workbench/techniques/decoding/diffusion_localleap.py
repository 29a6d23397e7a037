"""LocalLeap: near a very sure prediction less confidence is needed.

Kong et al. 2025, arXiv:2510.07081. The fair comparison is the threshold decoder: with ``tau_near`` equal to
``tau`` this is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding._diffusion import Decoder, Diffusion, View

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DiffusionLocalleap(Diffusion):
    """Places within reach of an anchor (a prediction above ``tau``) commit from ``tau_near`` on."""

    title = "LocalLeap"
    paper = Paper("2510.07081", "Kong et al. 2025")
    claim = Claim("6.94x throughput, steps down to 14.2 %",
                  setup="LLaDA and Dream, against one token per step; much of it is the threshold's")
    lossless = False
    tau: float = control(0.9, 0.5, 0.999, step=0.01, help="confidence of an anchor")
    tau_near: float = control(0.75, 0.3, 0.999, step=0.01, help="confidence needed beside an anchor")
    reach: int = control(4, 1, 32, unit="places", help="how far an anchor reaches, on both sides")

    def decoder(self, model: Any) -> Decoder:
        return Leap(self.tau, self.tau_near, self.reach)


class Leap(Decoder):
    """Anchors are this step's own predictions; what was committed before is none."""

    def __init__(self, tau: float, near: float, reach: int) -> None:
        self._tau, self._near, self._reach = tau, near, reach

    def commit(self, tokens: torch.Tensor, confidence: torch.Tensor, view: View) -> torch.Tensor:
        from torch.nn import functional as F

        anchors = (confidence >= self._tau) & view.active
        width = 2 * self._reach + 1
        close = F.max_pool1d(anchors[None, None].float(), width, 1, self._reach)[0, 0] > 0
        return anchors | (close & (confidence >= self._near))
