"""FreeDave: several steps of the static decoder verified in one forward; the text stays its text.

Wu et al. 2025, arXiv:2510.00294. Drafts commit the 1, 2, ... d surest predictions; a draft counts when the
static decoder, asked at the draft before it, would have come to the same canvas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding._diffusion import Decoder, Diffusion, Forward, View, top

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DiffusionFreedave(Diffusion):
    """Lossless against the static decoder with one token per step, in fewer forwards of more rows."""

    title = "FreeDave"
    paper = Paper("2510.00294", "Wu et al. 2025")
    claim = Claim("up to 3.78x throughput, no change of quality",
                  setup="Dream, TraDo and SDAR on mathematics and code, GPU")
    drafts: int = control(4, 1, 16, unit="rows", help="states verified per forward")

    def decoder(self, model: Any) -> Decoder:
        return Verified(self.drafts)


class Verified(Decoder):
    """Keeps the logits at the accepted state: the next drafts need no forward of their own."""

    def __init__(self, drafts: int) -> None:
        self._drafts = drafts
        self._logits: torch.Tensor | None = None

    def step(self, view: View, forward: Forward) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        import torch

        if self._logits is None:
            self._logits = forward(view.tokens[None])[0]
        tokens, confidence = self.score(self._logits, view)
        count = min(self._drafts, int(view.active.sum()))
        steps = [top(confidence, view.active, k) for k in range(1, count + 1)]
        rows = torch.stack([torch.where(chosen, tokens, view.tokens) for chosen in steps])
        logits = forward(rows)
        best = 0
        while best + 1 < count:
            after = self._next(logits[best], rows[best], view.active & ~steps[best])
            if not bool((rows[best + 1] == after).all()):
                break
            best += 1
        self._logits = logits[best]
        return tokens, confidence, steps[best]

    def _next(self, logits: torch.Tensor, row: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
        """What the static decoder makes of ``row``."""
        import torch

        confidence, tokens = logits.softmax(-1).max(-1)
        return torch.where(top(confidence, active, 1), tokens, row)
