"""A draft model's tree, shaped for this machine: Sequoia's best tree for measured acceptance and costs.

Chen et al. 2024, arXiv:2402.12374, section 4 (the tree of the highest expected yield for chances by rank;
its size from the hardware's cost of verifying). Here the chances are counted by depth and rank while
decoding, and drafting a level has a price too. Lossless: the target verifies the tree.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Drafter, Proposal, Speculative
from workbench.techniques.decoding._draft_tree import TreeDraft

if TYPE_CHECKING:
    import torch

    from workbench.machine import Machine
    from workbench.settings import Settings
    from workbench.shape import ModelShape

#: Chance that the draft's guess of each rank is right, before anything was seen.
_PRIOR = (0.6, 0.12, 0.06, 0.03, 0.02, 0.015, 0.01, 0.01)


@dataclass(frozen=True)
class OptimalTree(Speculative):
    """A small model drafts a tree whose shape gives the most tokens per second on this machine."""

    title = "draft model, optimal tree (Sequoia)"
    paper = Paper("2402.12374", "Chen et al. 2024", "4")
    claim = Claim("up to 4.04x (7B), 3.73x (13B), 2.27x (33B)",
                  setup="Llama-2 and Vicuna, A100, batch 1; against plain decoding of its own engine")
    needs = ("draft",)
    draft: str = control("auto", help="auto: the bundled draft; or a hub id or folder")
    nodes: int = control(32, 2, 63, unit="tokens", help="tokens of the drafted tree at most")
    depth: int = control(8, 1, 16, unit="tokens", help="levels of the tree at most; each is a forward of "
                                                       "the draft")
    ranks: int = control(4, 1, 8, help="children of a node at most")

    def rows(self) -> int:
        return 1 + self.nodes

    def applies(self, shape: ModelShape, machine: Machine) -> str | None:
        from workbench.runtime.drafts import why_not

        return super().applies(shape, machine) or why_not(self.draft, shape)

    def refuses(self, settings: Settings) -> str | None:
        from workbench.techniques.decoding.draft_model import DraftModel

        return DraftModel(draft=self.draft).refuses(settings)

    def start(self, runtime: Any) -> Drafter:
        return TreeDrafter(self, runtime)


class TreeDrafter(Drafter):
    """The draft's forward over the tree so far, level by level, and the plan that says its shape."""

    def __init__(self, choice: OptimalTree, runtime: Any) -> None:
        from workbench.runtime.verify_cost import draft_curve
        from workbench.techniques.decoding._auto_tree import auto_tree

        draft = runtime.model.draft_for(choice.draft, runtime.settings, runtime.emit)
        self._draft = TreeDraft(draft.forward, draft.cache, draft.weights_bytes, runtime)
        level_s = draft_curve(draft, runtime.guard)(4)
        self.tree = auto_tree(runtime, f"optimal_tree {draft.name}", _PRIOR[:choice.ranks], choice.depth,
                              choice.nodes, level_s)
        self._ranks = choice.ranks
        self._proposal = Proposal()

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """The planned tree, at most ``budget`` deep and ``most`` nodes large."""
        started = time.perf_counter()
        self.tree.begin()
        found, levels = self._draft.expand(tokens, self.tree.template[:self.most], self._ranks, budget)
        self._proposal = found
        found.seconds = time.perf_counter() - started
        self.tree.drafted(len(found.tokens), levels, found.seconds)
        return found

    def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """Which rank was right at each node that was kept and had guesses."""
        self.tree.verified()
        node = -1
        for depth, token in enumerate(tokens[len(tokens) - accepted - 1:], 1):
            guesses = self._draft.guesses.get(node)
            if guesses is None:
                break
            self.tree.count(depth, range(self._ranks), guesses.index(token) if token in guesses else None)
            below = [n for n, p in enumerate(self._proposal.parents) if p == node]
            node = next((n for n in below if self._proposal.tokens[n] == token), -2)
        self.tree.end()

    def says(self) -> dict[str, str]:
        return {"nodes": self.tree.describe()}

    def ended(self) -> None:
        self.tree.save()

    def memory_bytes(self) -> int:
        return self._draft.memory_bytes()
