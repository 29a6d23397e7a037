"""Clover: heads in sequence, each seeing the token guessed before it.

Xiao et al. 2024, arXiv:2405.00263, section 3. Lossless: the target verifies the tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Drafter, Proposal
from workbench.techniques.decoding._heads import RANKS, Grown, HeadDrafter, HeadMethod, top


@dataclass(frozen=True)
class Clover(HeadMethod):
    """A block over the target's states, then one light step per token that reads the token before it."""

    title = "Clover"
    paper = Paper("2405.00263", "Xiao et al. 2024", "3")
    claim = Claim("throughput +91 % and +146 % over plain decoding, +37 % and +57 % over Medusa",
                  setup="Baichuan small and large, batched serving",
                  memory="one decoder layer and its cache")
    nodes: int = control(12, 1, 64, soft=(2, 24), unit="tokens", help="tokens of the drafted tree")
    width: int = control(4, 1, 16, unit="nodes", help="nodes of one level that are expanded")

    def start(self, runtime: Any) -> Drafter:
        return CloverDrafter(self, runtime)


class CloverDrafter(HeadDrafter):
    """The augmenting block's cache holds settled tokens only, so it is never rolled back."""

    def __init__(self, choice: Clover, runtime: Any) -> None:
        super().__init__(choice, runtime)
        self.width = choice.width
        self.memory = self.head.memory(self.capacity)

    def draft(self, tokens: list[int], depth: int, nodes: int) -> Proposal:
        import torch

        from workbench.heads.spans import blocks

        for start, end in blocks(self.memory.length, len(tokens) - 1):
            features = self.target.features(self.states.rows(self.last, start, end))
            places = torch.arange(start, end, device=features.device)
            state = self.head.augment(features[None], places, None, self.memory)
            self.state = state[0, -1:]
        keys, values = self._see([tokens[-1]])
        state = self.head.step(self.state, keys[:, None], values[:, None])
        tree = Grown()
        held = {-1: (state, keys, values)}  # running state [1, H], the path's tokens [d, H]

        def expand(level: list[int]) -> list[tuple[list[int], list[float]]]:
            k, v = self._see([tree.tokens[n] for n in level])
            above = [held[tree.parents[n]] for n in level]
            keys = torch.stack([torch.cat([a[1], k[i:i + 1]]) for i, a in enumerate(above)])
            values = torch.stack([torch.cat([a[2], v[i:i + 1]]) for i, a in enumerate(above)])
            states = self.head.step(torch.cat([a[0] for a in above]), keys, values)
            for i, n in enumerate(level):
                held[n] = (states[i:i + 1], keys[i], values[i])
            return top(self.target.logits(states), min(RANKS, nodes))

        return tree.grow(top(self.target.logits(state), RANKS)[0], expand, depth, self.width, nodes)

    def _see(self, tokens: list[int]) -> Any:
        """Keys and values [n, hidden] of tokens."""
        import torch

        ids = torch.tensor(tokens, device=self.target.device)
        return self.head.see(self.target.embed(ids))

    def memory_bytes(self) -> int:
        return super().memory_bytes() + int(self.memory.nbytes)
