"""PPD's prompt tokens: embeddings after a token that make the target itself guess the tokens ahead.

Chen et al. 2024, arXiv:2405.18628, section 3: everything is frozen but ``steps`` embeddings (one copy each);
the row of prompt i guesses the token at distance i + 2 from the token it follows.
"""

from __future__ import annotations

import torch
from torch import nn

from workbench.heads import probes
from workbench.heads.distil import Batch, Guesses, Head
from workbench.heads.spec import HeadSpec
from workbench.heads.target import Target

_SHARE = 0.25


class PromptTokens(Head):
    """``prompts`` [steps, hidden], in the place of embeddings."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.prompts = nn.Parameter(torch.randn(spec.steps, spec.hidden) * 0.02)
        self._places = torch.Generator().manual_seed(0)

    def begin(self, target: Target) -> None:
        """Start at the mean embedding, where the target's layers expect something."""
        with torch.no_grad():
            self.prompts.add_(target.embedding.weight.float().mean(0))

    def guesses(self, batch: Batch, target: Target) -> Guesses:
        steps, (size, length) = self.spec.steps, batch.tokens.shape
        places = probes.choose(length, steps, _SHARE, self._places)
        real = target.embed(batch.tokens).to(self.prompts.dtype)
        rows = self.prompts.expand(size, len(places), steps, -1)
        features = probes.run(target, 0, real, rows, places, steps)
        return ([target.logits(features[:, :, i]) for i in range(steps)],
                [batch.teacher[:, places + 1 + i] for i in range(steps)])
