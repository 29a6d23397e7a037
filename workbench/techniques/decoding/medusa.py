"""Medusa: one small head per future token, all on the target's last state.

Cai et al. 2024, arXiv:2401.10774, sections 2.1 and 2.2. Lossless here: the target's own choice decides
(the paper's typical acceptance, which changes the text, is not offered). The paper's tree is one fixed
template; here each step's tree follows the heads' probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.techniques.base import Claim, Paper
from workbench.techniques.decoding import Drafter, Proposal
from workbench.techniques.decoding._heads import HeadDrafter, HeadMethod, grow, top


@dataclass(frozen=True)
class Medusa(HeadMethod):
    """Independent heads on the last state guess the next tokens; a tree of them is verified."""

    title = "Medusa heads"
    paper = Paper("2401.10774", "Cai et al. 2024", "2.1 and 2.2")
    claim = Claim("2.2x with the model frozen, 2.3-2.8x when it is trained too",
                  setup="Vicuna 7B and 13B, MT-Bench, A100, batch 1",
                  memory="the heads' matrices")

    def start(self, runtime: Any) -> Drafter:
        return MedusaDrafter(self, runtime)


class MedusaDrafter(HeadDrafter):
    """No state of its own."""

    def draft(self, tokens: list[int], depth: int, nodes: int) -> Proposal:
        features = self.last_features(tokens, len(tokens) - 2)
        levels = top(self.target.logits(self.head(features)[:depth, 0]))
        return grow(levels, nodes)[0]
