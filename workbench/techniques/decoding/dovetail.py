"""Dovetail's head: EAGLE's, deeper, with a gate that mixes feature and token.

Zhang et al. 2024, arXiv:2412.18934, sections 3.2 and 3.3: for a slow target a draft may cost more, so the
head has more layers and fewer of its tokens are verified. Lossless: the target verifies the tree. The paper
puts head and target on different devices; here both are where the target is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Drafter
from workbench.techniques.decoding._heads import HeadMethod
from workbench.techniques.decoding.eagle import EagleDrafter


@dataclass(frozen=True)
class Dovetail(HeadMethod):
    """As EAGLE, with dynamic gating fusion and more layers, for targets that are slow to verify."""

    title = "Dovetail's head"
    paper = Paper("2412.18934", "Zhang et al. 2024", "3.2 and 3.3")
    claim = Claim("2.77x over the CPU alone with 3 GB of GPU memory",
                  setup="Llama-2-7B-chat on a CPU, its head on a GPU, HumanEval",
                  memory="two decoder layers and their caches")
    nodes: int = control(12, 1, 64, soft=(2, 24), unit="tokens", help="tokens of the drafted tree")
    width: int = control(4, 1, 16, unit="nodes", help="nodes of one level that are expanded")

    def start(self, runtime: Any) -> Drafter:
        return EagleDrafter(self, runtime)
