"""EAGLE: the target's features continued one token at a time by one decoder layer.

Li et al. 2024, arXiv:2401.15077, sections 3 and 4; the tree that follows the head's own confidence is
EAGLE-2's (arXiv:2406.16858, section 4). Lossless: the target verifies the tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Drafter, Proposal
from workbench.techniques.decoding._heads import RANKS, Grown, HeadDrafter, HeadMethod, top

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Eagle(HeadMethod):
    """A small head continues the target's features from token to token; a tree of its guesses is verified."""

    title = "EAGLE-style head"
    paper = Paper("2401.15077", "Li et al. 2024", "3 and 4")
    claim = Claim("2.7-3.5x; with the confidence tree 3.05-4.26x",
                  setup="LLaMA2-Chat 70B, MT-Bench, greedy; the second figure is EAGLE-2's, several models",
                  memory="one decoder layer and its cache")
    nodes: int = control(12, 1, 64, soft=(2, 24), unit="tokens", help="tokens of the drafted tree")
    width: int = control(4, 1, 16, unit="nodes", help="nodes of one level that are expanded")

    def start(self, runtime: Any) -> Drafter:
        return EagleDrafter(self, runtime)


class EagleDrafter(HeadDrafter):
    """The head's cache: pairs (features of token t, token t + 1). Those of settled tokens stay; what a tree
    adds is cut off again when the draft is made."""

    def __init__(self, choice: Any, runtime: Any) -> None:
        super().__init__(choice, runtime)
        self.width = choice.width
        room = self.capacity + (choice.nodes + choice.width) * self.spec.steps
        self.memories = self.head.memories(room)

    def draft(self, tokens: list[int], depth: int, nodes: int) -> Proposal:
        import torch

        feature = self._settle(tokens)
        settled = self.memories[0].length
        tree = Grown()
        features = {-1: feature}
        columns: dict[int, int] = {}

        def expand(level: list[int]) -> list[tuple[list[int], list[float]]]:
            base = self.memories[0].length
            mask = feature.new_full((len(level), base + len(level)), float("-inf"))
            mask[:, :settled] = 0
            places = []
            for i, n in enumerate(level):
                columns[n] = base + i
                path = tree.path(n)
                mask[i, [columns[p] for p in path]] = 0
                places.append(len(tokens) - 1 + len(path))
            ids = torch.tensor([tree.tokens[n] for n in level], device=feature.device)
            above = torch.cat([features[tree.parents[n]] for n in level])
            out = self.head(above[None], self.target.embed(ids)[None],
                            torch.tensor(places, device=feature.device), mask, self.memories)[0]
            for i, n in enumerate(level):
                features[n] = out[i:i + 1]
            return top(self.target.logits(out), min(RANKS, nodes))

        proposal = tree.grow(top(self.target.logits(feature), RANKS)[0], expand, depth, self.width, nodes)
        for memory in self.memories:
            memory.length = settled
        return proposal

    def _settle(self, tokens: list[int]) -> torch.Tensor:
        """Read the pairs that are new; the guessed features of the last token [1, hidden]."""
        import torch

        from workbench.heads.spans import blocks

        # The last pair was read already when a draft is asked for twice: read it again.
        first = min(self.memories[0].length, len(tokens) - 2)
        for memory in self.memories:
            memory.length = first
        for start, end in blocks(first, len(tokens) - 1):
            features = self.target.features(self.states.rows(self.last, start, end))
            ids = torch.tensor(tokens[start + 1:end + 1], device=features.device)
            places = torch.arange(start + 1, end + 1, device=features.device)
            out = self.head(features[None], self.target.embed(ids)[None], places, None, self.memories)
        return out[0, -1:]

    def memory_bytes(self) -> int:
        return super().memory_bytes() + sum(int(m.nbytes) for m in self.memories)
