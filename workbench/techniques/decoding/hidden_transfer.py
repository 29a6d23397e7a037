"""Hidden transfer: the target's upper layers refine guessed states of the tokens ahead.

Wu et al. 2024, arXiv:2404.12022, section 3. Lossless: the target verifies the tree. The paper computes the
pseudo states of every tree node within the verifying forward; here only those of the accepted token are, in
a forward of their own through the upper layers, so that a verification has no rows beyond its tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper
from workbench.techniques.decoding import Drafter, Proposal
from workbench.techniques.decoding._heads import HeadDrafter, HeadMethod, grow, top

if TYPE_CHECKING:
    from workbench.settings import Settings


@dataclass(frozen=True)
class HiddenTransfer(HeadMethod):
    """States of the next tokens are guessed at a middle layer; the layers above make tokens of them."""

    title = "hidden transfer"
    paper = Paper("2404.12022", "Wu et al. 2024", "3")
    claim = Claim("faster than Medusa among methods with one model",
                  setup="LLaMA-2-Chat and Vicuna, 7B and 13B", memory="one matrix per step")

    def refuses(self, settings: Settings) -> str | None:
        if settings.tiers.name() != "resident":
            return ("hidden_transfer runs the upper layers a second time, which would fetch them twice per "
                    "step; set tiers=resident, or decoding=medusa")
        return super().refuses(settings)

    def start(self, runtime: Any) -> Drafter:
        return TransferDrafter(self, runtime)


class TransferDrafter(HeadDrafter):
    """No state of its own: what the pseudo rows write behind the cache's end is overwritten."""

    def __init__(self, choice: HiddenTransfer, runtime: Any) -> None:
        super().__init__(choice, runtime)
        self.middle = self.target.tap(self.head.layer)
        self.taps = (self.middle,)

    def draft(self, tokens: list[int], depth: int, nodes: int) -> Proposal:
        settled = len(tokens) - 1
        state = self.target.narrowed(self.states.rows(self.middle, settled - 1, settled))
        pseudo = self.target.widened(self.head(state.to(self.target.dtype))[0, :depth])
        return grow(top(self.states.enter(pseudo, self.middle, settled)), nodes)[0]
