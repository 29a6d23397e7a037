"""Learn2PD: a small learnt filter decides which predictions are final; EoTP gives up what is padding.

Bao et al. 2025, arXiv:2509.25188. The filter sees the pattern of a block's confidences, not only a place's
own; it was trained on the model's own static runs (``workbench.diffusion.filter``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding._diffusion import Decoder, Diffusion, View

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DiffusionLearn2pd(Diffusion):
    """Commits what a learnt filter calls final; optionally stops at the end of the text."""

    title = "Learn2PD + EoTP"
    paper = Paper("2509.25188", "Bao et al. 2025")
    claim = Claim("22.58x at length 1024, 3-5x at 256",
                  setup="LLaDA-8B, GSM8K; about 90 % of the work at 1024 was padding")
    lossless = False
    tau: float = control(0.96, 0.3, 0.999, step=0.01, help="what the filter must say")
    end: str = control("committed", choices=("off", "committed", "predicted"),
                       help="give up the canvas right of the end: never, once the end is committed, or "
                            "as soon as it is predicted (the released code; can cut an answer short)")

    def decoder(self, model: Any) -> Decoder:
        return Filtered(self, model)


class Filtered(Decoder):
    """``model.filter()``: confidences [L] (0 where nothing is open) -> probability [L]."""

    def __init__(self, choice: DiffusionLearn2pd, model: Any) -> None:
        self._choice, self._eos = choice, model.eos
        self._filter = model.filter()

    def commit(self, tokens: torch.Tensor, confidence: torch.Tensor, view: View) -> torch.Tensor:
        return self._filter(confidence.masked_fill(~view.active, 0.0)) > self._choice.tau

    def ends(self, tokens: torch.Tensor, confidence: torch.Tensor, view: View) -> int | None:
        if self._choice.end == "off":
            return None
        if self._choice.end == "committed":
            places = ((view.tokens == self._eos) & ~view.masked).nonzero()[:, 0]
            return int(places[0]) if len(places) else None
        places = ((tokens == self._eos) & view.masked).nonzero()[:, 0]
        return int(places[confidence[places].argmax()]) if len(places) else None
