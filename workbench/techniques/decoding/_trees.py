"""Token trees from tables: which nodes a budget buys, and how a table's ranks become tokens."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from workbench.techniques.decoding import Proposal


def best_first(nodes: int, chances: Sequence[float], depth: int) -> list[tuple[int, int]]:
    """The tree of ``nodes`` nodes with the most expected accepted tokens: [(parent, rank)].

    ``chances[r]``: the probability that a node's child of rank r is right, the same at every node;
    a path's worth is the product. Taking the worthiest node next is optimal for such chances, as a
    child is never worth more than its parent (Sequoia, arXiv:2402.12374, section 4.1).
    ``parent`` is -1 for the root's children; parents come before their children."""
    found: list[tuple[int, int]] = []
    # (-worth, order of discovery, parent, rank, depth)
    heap = [(-chance, rank, -1, rank, 1) for rank, chance in enumerate(chances) if chance > 0]
    heapq.heapify(heap)
    discovered = len(heap)
    while heap and len(found) < nodes:
        worth, _, parent, rank, deep = heapq.heappop(heap)
        me = len(found)
        found.append((parent, rank))
        if deep < depth:
            for r, chance in enumerate(chances):
                if chance > 0:
                    heapq.heappush(heap, (worth * chance, discovered, me, r, deep + 1))
                    discovered += 1
    return found


def fill(template: Sequence[tuple[int, int]], root: int,
         successor: Callable[[int, int], int]) -> tuple[Proposal, list[int]]:
    """A template's tokens: ``successor(token, rank)``, negative where the table knows none.

    Nodes without a token are left out with everything below them. Also the rank of each kept node."""
    kept = [-1] * len(template)
    tokens: list[int] = []
    parents: list[int] = []
    ranks: list[int] = []
    for node, (parent, rank) in enumerate(template):
        if parent >= 0 and kept[parent] < 0:
            continue
        token = successor(tokens[kept[parent]] if parent >= 0 else root, rank)
        if token < 0:
            continue
        kept[node] = len(tokens)
        tokens.append(token)
        parents.append(kept[parent] if parent >= 0 else -1)
        ranks.append(rank)
    return Proposal(tokens, parents, [None] * len(tokens)), ranks


def within(proposal: Proposal, budget: int) -> Proposal:
    """The part of a tree at most ``budget`` deep: more could not be kept."""
    depth: list[int] = []
    for parent in proposal.parents:
        depth.append(1 if parent < 0 else depth[parent] + 1)
    if not depth or max(depth) <= budget:
        return proposal
    place = {-1: -1}
    tokens: list[int] = []
    parents: list[int] = []
    for node, deep in enumerate(depth):
        if deep <= budget:
            place[node] = len(tokens)
            tokens.append(proposal.tokens[node])
            parents.append(place[proposal.parents[node]])
    return Proposal(tokens, parents, [None] * len(tokens))
