"""Token Recycling: draft a tree from what the target itself last predicted after each token.

Luo et al. 2024, arXiv:2408.08696, section 3. Lossless: the target verifies the tree. The paper's tree
is one fixed template of 80 nodes; here the template is the best one of ``nodes`` nodes for the chances
that each rank was right so far, so that it suits machines where a row is not free. ``tree=auto`` also
chooses how many nodes, by depth and rank, from the measured cost of a row.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Drafter, Proposal, Speculative

if TYPE_CHECKING:
    import torch

    from workbench.techniques.decoding._auto_tree import AutoTree

#: Chance that the child of each rank is right, before anything was seen.
_PRIOR = (0.42, 0.13, 0.07, 0.045, 0.03, 0.022, 0.017, 0.013)
#: How many observations the prior counts for.
_PRIOR_WEIGHT = 40.0
_DEPTH = 8
#: Nodes of an automatic tree at most: forwards are timed up to 64 rows.
MOST = 63
#: Steps between two looks at the template.
_LOOK = 16


@dataclass(frozen=True)
class TokenRecycling(Speculative):
    """Keeps the target's last few most likely successors of every token and drafts a tree from them."""

    title = "Token Recycling"
    paper = Paper("2408.08696", "Luo et al. 2024", "3")
    claim = Claim("about 2x; 2.73 tokens per forward is 1.40x on a 3090 and 2.22x on an A100",
                  setup="Spec-Bench, Vicuna 7B to 33B, fp16, batch 1, 80 nodes; the second figure is "
                        "Spec-Bench's own measurement, 7B",
                  memory="8 ids per token of the vocabulary")
    nodes: int = control(14, 2, 80, unit="tokens", help="tokens of the drafted tree")
    ranks: int = control(8, 1, 16, help="successors kept for each token")
    tree: str = control("fixed", choices=("fixed", "auto"),
                        help="auto: the tree with the most tokens per second on this machine, of at most "
                             "63 nodes")

    def rows(self) -> int:
        return 1 + (self.nodes if self.tree == "fixed" else MOST)

    def start(self, runtime: Any) -> Drafter:
        tree = None
        if self.tree == "auto":
            from workbench.techniques.decoding._auto_tree import auto_tree

            tree = auto_tree(runtime, "token_recycling", prior(self.ranks), _DEPTH, MOST)
        return Recycler(self.nodes, self.ranks, runtime.model.shape.vocab, tree)


def prior(ranks: int) -> list[float]:
    """The chance of each rank before anything was seen."""
    return [*_PRIOR, *[_PRIOR[-1] * 0.8] * ranks][:ranks]


class Recycler(Drafter):
    """The table int32 [V, ranks], -1 where nothing is known, and how often each rank was right."""

    def __init__(self, nodes: int, ranks: int, vocab: int, tree: AutoTree | None = None) -> None:
        import numpy as np

        self._tree = tree
        self._nodes, self._ranks = nodes, ranks
        self._table = np.full((vocab, ranks), -1, np.int32)
        self._right = [0.0] * ranks
        self._tried = 0.0
        self._steps = 0
        self._template: list[tuple[int, int]] = []
        self._rows: list[int] = []
        self._seeded = False
        self._proposal, self._proposed_ranks = Proposal(), list[int]()
        self._shape()

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """A tree of at most ``nodes`` tokens, at most ``budget`` deep."""
        from workbench.techniques.decoding._trees import fill, within

        started = time.perf_counter()
        if not self._seeded:
            self._seed(tokens)
        if self._tree is not None:
            self._tree.begin()
            self._template = self._tree.template
        table = self._table
        found, self._proposed_ranks = fill(self._template[:self.most], tokens[-1],
                                           lambda token, rank: int(table[token, rank]))
        cut = within(found, budget)
        if cut is not found:
            self._proposed_ranks = []
        self._proposal = cut
        self._rows = [tokens[-1], *cut.tokens]
        cut.seconds = time.perf_counter() - started
        if self._tree is not None:
            self._tree.drafted(len(cut.tokens))
        return cut

    def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """Every verified row refreshes its token's successors, rejected rows too: that is the point.

        Of rows with the same token the last in tree order wins."""
        if self._tree is not None:
            self._tree.verified()
            self._count(self._tree, tokens[len(tokens) - accepted - 2:])
        if logits.shape[0] == len(self._rows):
            best = logits.topk(self._ranks, -1).indices.cpu().numpy()
            self._table[self._rows] = best
        if self._tree is None:
            self._learn(tokens, accepted)

    def says(self) -> dict[str, str]:
        return {"tree": self._tree.describe()} if self._tree is not None else {}

    def ended(self) -> None:
        if self._tree is not None:
            self._tree.save()

    def memory_bytes(self) -> int:
        return int(self._table.nbytes)

    def _seed(self, tokens: list[int]) -> None:
        """The prompt's own successions are the first guesses."""
        self._seeded = True
        self._table[tokens[:-1], 0] = tokens[1:]

    def _count(self, tree: AutoTree, walked: list[int]) -> None:
        """At every token that the walk passed, the rank that the table gave to what followed it, drafted
        or not. The table must not have changed since the proposal."""
        for depth, (token, following) in enumerate(itertools.pairwise(walked), 1):
            known = self._table[token]
            ranks = [r for r in range(self._ranks) if known[r] >= 0]
            tree.count(depth, ranks, next((r for r in ranks if known[r] == following), None))
        tree.end()

    def _learn(self, tokens: list[int], accepted: int) -> None:
        """Which rank was right at each node that the walk passed."""
        if not self._proposed_ranks:
            return
        parent, place = -1, len(tokens) - accepted - 1
        for token in tokens[place:]:
            below = [n for n, p in enumerate(self._proposal.parents) if p == parent]
            if not below:
                break
            self._tried += 1
            node = next((n for n in below if self._proposal.tokens[n] == token), None)
            if node is None:
                break
            self._right[self._proposed_ranks[node]] += 1
            parent = node
        self._steps += 1
        if self._steps % _LOOK == 0:
            self._shape()

    def _shape(self) -> None:
        from workbench.techniques.decoding._trees import best_first

        total = self._tried + _PRIOR_WEIGHT
        chances = [(right + _PRIOR_WEIGHT * p) / total
                   for right, p in zip(self._right, prior(self._ranks), strict=True)]
        self._template = best_first(self._nodes, chances, _DEPTH)
