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

    from workbench.techniques.decoding._cut import Cut

_DEPTH = 8
#: Successors that a context keeps at most.
_KEPT = 12
#: Contexts kept at most; the oldest half is forgotten then.
_CONTEXTS = 200_000
#: Nodes of an automatic tree at most: forwards are timed up to 64 rows.
MOST = 63


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
    tree: str = control("fixed", choices=("fixed", "auto"),
                        help="auto: cut each tree where a row costs more on this machine than it gives, "
                             "at 63 nodes at most")

    def rows(self) -> int:
        return 1 + (self.nodes if self.tree == "fixed" else MOST)

    def start(self, runtime: Any) -> Drafter:
        if self.tree == "fixed":
            return Tables(self)
        from workbench.runtime.verify_cost import curve
        from workbench.techniques.decoding._cut import Cut

        return Tables(self, Cut(curve(runtime.model, runtime.settings, runtime.guard, runtime.emit), MOST))


class Tables(Drafter):
    """context (one or two tokens) -> {token: probability}."""

    def __init__(self, choice: AdaptiveTables, cut: Cut | None = None) -> None:
        self._choice, self._cut = choice, cut
        self._proposal = Proposal()
        self._next: dict[tuple[int, ...], dict[int, float]] = {}
        self._seeded = False
        self._contexts: list[tuple[int, ...]] = []

    def propose(self, tokens: list[int], budget: int) -> Proposal:
        """The ``nodes`` likeliest continuations by the tables, at most ``budget`` deep."""
        started = time.perf_counter()
        if not self._seeded:
            self._seed(tokens)
        if self._cut is not None:
            self._cut.begin()
        found, worths = Proposal(), list[float]()
        before = [tokens[-2] if len(tokens) > 1 else -1]  # per row: the token before it
        heap: list[tuple[float, int, int, int, int]] = []
        self._open(heap, 0.0, -1, (before[0], tokens[-1]), 1)
        most = min(self._choice.nodes if self._cut is None else self._cut.most, self.most)
        while heap and len(found.tokens) < most:
            cost, _, parent, token, depth = heapq.heappop(heap)
            me = len(found.tokens)
            found.tokens.append(token)
            found.parents.append(parent)
            worths.append(math.exp(-cost))
            before.append(found.tokens[parent] if parent >= 0 else tokens[-1])
            if depth < min(_DEPTH, budget):
                self._open(heap, cost, me, (before[-1], token), depth + 1)
        found.probs = [None] * len(found.tokens)
        if self._cut is not None:
            found = found.first(self._cut.nodes(worths))
        self._proposal = found
        self._contexts = list(zip(before, [tokens[-1], *found.tokens], strict=False))
        found.seconds = time.perf_counter() - started
        return found

    def observe(self, tokens: list[int], accepted: int, logits: torch.Tensor) -> None:
        """Mix every verified row's likeliest tokens into its contexts."""
        if self._cut is not None:
            self._cut.verified(self._kept(tokens[len(tokens) - accepted - 1:]), accepted + 1)
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

    def says(self) -> dict[str, str]:
        return {"tree": self._cut.describe()} if self._cut is not None else {}

    def _kept(self, walked: list[int]) -> set[int]:
        """The proposal's nodes along these tokens."""
        kept: set[int] = set()
        parent = -1
        for token in walked:
            below = (n for n, p in enumerate(self._proposal.parents) if p == parent)
            node = next((n for n in below if self._proposal.tokens[n] == token), None)
            if node is None:
                break
            kept.add(node)
            parent = node
        return kept

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
