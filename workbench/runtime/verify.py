"""Verification: which drafted tokens the target keeps, and the token it adds itself.

``walk`` goes down the token tree from the root. Rows: 0 is the root, ``1 + i`` is drafted node i.
Returns the accepted rows (root first) and the tokens they produce: one per accepted drafted node,
then the target's own. So ``len(tokens) == len(rows)``, and plain decoding is the empty tree.

Rules (all leave the target's own distribution unchanged):
    greedy     a child survives when it is the argmax; the output is token-identical to plain greedy.
    coupled    the target draws with noise keyed by position; a child survives when it is that draw;
               token-identical to plain sampling with the same seed, whatever the drafter.
    ratio      a drawn child survives with probability min(1, p/q), else p becomes norm(max(p - q, 0))
               (Leviathan et al. 2023, arXiv:2211.17192, algorithm 1; siblings in turn as in
               SpecInfer, arXiv:2305.09781, algorithm 2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from workbench.runtime.sampling import Sampler
    from workbench.techniques.decoding import Proposal

_ACCEPT, _RESIDUAL = 1, 2  # independent noise streams; 0 is the coupled draw


def walk(proposal: Proposal, logits: torch.Tensor, position: int, sampler: Sampler
         ) -> tuple[list[int], list[int]]:
    """``logits`` [1 + n, V] of the root and the nodes; ``position``: of the token after the root."""
    if not sampler.greedy and any(q is not None for q in proposal.probs):
        return _ratio(proposal, logits, position, sampler)
    return _same(proposal, logits, position, sampler)


def children(parents: list[int]) -> list[list[int]]:
    """Node indices below each row (row 0: the root), in order."""
    below: list[list[int]] = [[] for _ in range(len(parents) + 1)]
    for node, parent in enumerate(parents):
        below[parent + 1].append(node)
    return below


def depths(parents: list[int]) -> list[int]:
    """Depth of each node; the root, which is not listed, has 0."""
    found: list[int] = []
    for parent in parents:
        found.append(1 if parent < 0 else found[parent] + 1)
    return found


def _same(proposal: Proposal, logits: torch.Tensor, position: int, sampler: Sampler
          ) -> tuple[list[int], list[int]]:
    """Greedy and coupled: the target's own choice at every row, kept as far as it was drafted."""
    places = [position] + [position + d for d in depths(proposal.parents)]
    chosen = sampler.choose(logits, places).tolist()
    below = children(proposal.parents)
    rows, row = [0], 0
    tokens: list[int] = []
    while True:
        token = chosen[row]
        tokens.append(token)
        node = next((c for c in below[row] if proposal.tokens[c] == token), None)
        if node is None:
            return rows, tokens
        row = node + 1
        rows.append(row)


def _ratio(proposal: Proposal, logits: torch.Tensor, position: int, sampler: Sampler
           ) -> tuple[list[int], list[int]]:
    """Accept by p/q, else draw from what is left of p."""
    target = sampler.probabilities(logits)
    below = children(proposal.parents)
    rows, row = [0], 0
    tokens: list[int] = []
    while True:
        place = position + len(tokens)
        p = target[row]
        kept = -1
        for attempt, node in enumerate(below[row]):
            token, q = proposal.tokens[node], proposal.probs[node]
            q = _point(token, p) if q is None else q.to(p)
            u = sampler.uniform(place, stream=16 * _ACCEPT + attempt)
            if u * float(q[token]) < float(p[token]):
                kept = node
                break
            p = _residual(p, q)
        if kept < 0:
            tokens.append(int(sampler.draw(p[None], [place], stream=_RESIDUAL)))
            return rows, tokens
        tokens.append(proposal.tokens[kept])
        row = kept + 1
        rows.append(row)


def _point(token: int, like: torch.Tensor) -> torch.Tensor:
    """A deterministic choice is a distribution too: all on one token."""
    q = torch.zeros_like(like)
    q[token] = 1.0
    return q


def _residual(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """norm(max(p - q, 0)); p itself where rounding left nothing."""
    left = (p - q).clamp_(min=0.0)
    total = float(left.sum())
    return left / total if total > 0.0 else p
