"""Hidden transfer: states of future tokens guessed at a middle layer and refined by the layers above.

Wu et al. 2024, arXiv:2404.12022, section 3: one matrix per step turns the last token's state at a layer into
pseudo states of the tokens after it; the target's remaining layers attend from them to the real tokens, and
its output head reads the guesses. The paper enters each step at a layer of its own; here all enter at one.
"""

from __future__ import annotations

import torch
from torch import nn

from workbench.heads import probes
from workbench.heads.distil import Batch, Guesses, Head
from workbench.heads.spec import HeadSpec
from workbench.heads.target import Target

#: Share of a training window's places that get pseudo states in one step.
_SHARE = 0.25


class HiddenTransfer(Head):
    """``options``: ``layer``, the one that the pseudo states enter."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.layer: int = int(spec.options["layer"])
        self.transfers = nn.ModuleList(nn.Linear(spec.hidden, spec.hidden) for _ in range(spec.steps))
        with torch.no_grad():
            for name, values in self.transfers.named_parameters():
                values.copy_(torch.eye(spec.hidden) if name.endswith("weight") else torch.zeros(spec.hidden))
        self._places = torch.Generator().manual_seed(0)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """[..., hidden] at ``layer`` -> [..., steps, hidden]: pseudo states of the tokens after it."""
        return torch.stack([transfer(state) for transfer in self.transfers], -2)

    def guesses(self, batch: Batch, target: Target) -> Guesses:
        assert batch.middle is not None
        steps, length = self.spec.steps, batch.tokens.shape[1]
        places = probes.choose(length, steps, _SHARE, self._places)
        pseudo = self(batch.middle[:, places])
        features = probes.run(target, self.layer, batch.middle.to(pseudo.dtype), pseudo, places, steps)
        return ([target.logits(features[:, :, i]) for i in range(steps)],
                [batch.teacher[:, places + 1 + i] for i in range(steps)])
