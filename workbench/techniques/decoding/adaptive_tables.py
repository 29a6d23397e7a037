"""ADED: a table of what follows each pair of tokens, learnt while decoding, and a searched tree.

Adaptive draft-verification, Liu et al. 2024, arXiv:2407.12021. Lossless: the target verifies the tree.
The paper searches its table by Monte-Carlo tree search; here the search is best-first, its
deterministic limit, which gives the best tree for the table's probabilities.
"""

from __future__ import annotations

import heapq
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.techniques.base import Claim, Paper, control
from workbench.techniques.decoding import Drafter, Proposal, Speculative

if TYPE_CHECKING:
    import torch

_DEPTH = 8
#: Successors that a context keeps at most.
_KEPT = 12
#: Contexts kept at most; the oldest half is forgotten then.
_CONTEXTS = 200_000


@dataclass(frozen=True)
class AdaptiveTables(Speculative):
    """Learns online what follows each token and each pair of tokens; drafts the likeliest tree."""

    title = "adaptive draft-verification (ADED)"
    paper = Paper("2407.12021", "Liu et al. 2024", "3")
    claim = Claim("up to about 2.5x", setup="7B to 13B, GPU, batch 1; not confirmed from the paper's code",
                  memory="far below a retrieval store")
    nodes: int = control(14, 2, 64, unit="tokens", help="tokens of the drafted tree")
    children: int = control(4, 1, 8, help="successors considered at a node")
    rate: float = control(0.3, 0.05, 1.0, step=0.05, help="weight of the newest prediction")
    backoff: float = control(0.5, 0.0, 1.0, step=0.05,
                             help="weight of what follows one token beside what follows two")

    def rows(self) -> int:
        return 1 + self.nodes

    def start(self, runtime: Any) -> Drafter:
        return Tables(self)


class Tables(Drafter):
    """context (one or two tokens) -> {token: probability}."""

    def __init__(self, choice: AdaptiveTables) -> None:
        self._choice = choice
        self._next: dict[tuple[int, ...], dict[int, float]] = {}
        self._seeded = False
        self._contexts: list[tuple[int, ...]] = []

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """The ``nodes`` likeliest continuations by the tables, at most ``budget`` deep."""
        started = time.perf_counter()
        if not self._seeded:
            self._seed(tokens)
        found = Proposal()
        before = [tokens[-2] if len(tokens) > 1 else -1]  # per row: the token before it
        heap: list[tuple[float, int, int, int, int]] = []
        self._open(heap, 0.0, -1, (before[0], tokens[-1]), 1)
        most = min(self._choice.nodes, self.most)
        while heap and len(found.tokens) < most:
            cost, _, parent, token, depth = heapq.heappop(heap)
            me = len(found.tokens)
            found.tokens.append(token)
            found.parents.append(parent)
            before.append(found.tokens[parent] if parent >= 0 else tokens[-1])
            if depth < min(_DEPTH, budget):
                self._open(heap, cost, me, (before[-1], token), depth + 1)
        found.probs = [None] * len(found.tokens)
        self._contexts = list(zip(before, [tokens[-1], *found.tokens], strict=True))
        found.seconds = time.perf_counter() - started
        return found

    def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """Mix every verified row's likeliest tokens into its contexts."""
        if logits.shape[0] != len(self._contexts):
            return
        top = logits.float().softmax(-1).topk(self._choice.children, -1)
        for context, ids, probs in zip(self._contexts, top.indices.tolist(), top.values.tolist(),
                                       strict=True):
            self._mix(context, ids, probs)
            self._mix(context[1:], ids, probs)
        if len(self._next) > _CONTEXTS:
            self._next = dict(list(self._next.items())[_CONTEXTS // 2:])

    def memory_bytes(self) -> int:
        """Estimated: a context takes about 100 bytes and 60 for each successor."""
        return sum(100 + 60 * len(row) for row in self._next.values())

    def _seed(self, tokens: list[int]) -> None:
        self._seeded = True
        for a, b, c in zip([-1, *tokens], tokens, tokens[1:], strict=False):
            self._mix((a, b), [c], [0.5])
            self._mix((b,), [c], [0.5])

    def _mix(self, context: tuple[int, ...], ids: list[int], probs: list[float]) -> None:
        row, rate = self._next.setdefault(context, {}), self._choice.rate
        if row:
            for token in row:
                row[token] *= 1 - rate
        else:
            rate = 1.0
        for token, p in zip(ids, probs, strict=True):
            row[token] = row.get(token, 0.0) + rate * p
        if len(row) > _KEPT:
            for token in sorted(row, key=row.__getitem__)[:len(row) - _KEPT]:
                del row[token]

    def _open(self, heap: list[tuple[float, int, int, int, int]], cost: float, parent: int,
              context: tuple[int, int], depth: int) -> None:
        """Put a node's likeliest children on the heap."""
        one, two = self._next.get(context[1:], {}), self._next.get(context, {})
        weight = self._choice.backoff if two else 1.0
        scores = {t: weight * p for t, p in one.items()}
        for token, p in two.items():
            scores[token] = scores.get(token, 0.0) + (1 - weight) * p
        best = heapq.nlargest(self._choice.children, scores, key=scores.__getitem__)
        for token in best:
            if scores[token] > 1e-4:
                heapq.heappush(heap, (cost - math.log(scores[token]), len(heap), parent, token, depth))
