"""Token trees from tables: which nodes a budget buys, and how a table's ranks become tokens."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from workbench.techniques.decoding import Proposal

#: [(parent, rank)] of every node; parents come before their children, -1 is the root.
Template = list[tuple[int, int]]


def best_first(nodes: int, chances: Sequence[float], depth: int) -> Template:
    """The tree of ``nodes`` nodes with the most expected accepted tokens: [(parent, rank)].

    ``chances[r]``: the probability that a node's child of rank r is right, the same at every node;
    a path's worth is the product. Taking the worthiest node next is optimal for such chances, as a
    child is never worth more than its parent (Sequoia, arXiv:2402.12374, section 4.1).
    ``parent`` is -1 for the root's children; parents come before their children."""
    return worthiest(nodes, [chances] * depth)[0]


def worthiest(nodes: int, chances: Sequence[Sequence[float]]) -> tuple[Template, list[float]]:
    """As :func:`best_first` with chances of their own at every depth, ``chances[depth - 1][rank]``, and
    the worth of every node, which never rises along the list."""
    found: Template = []
    worths: list[float] = []
    # Per depth the ranks by their chance: only the next sibling and the first child can be the next best.
    orders = [sorted(((-c, r) for r, c in enumerate(row) if c > 0)) for row in chances]
    # (-worth, order of discovery, -worth of the parent, parent, place among its siblings, depth)
    heap: list[tuple[float, int, float, int, int, int]] = []
    if orders and orders[0]:
        heap.append((orders[0][0][0], 0, -1.0, -1, 0, 1))
    pushed = 1
    while heap and len(found) < nodes:
        worth, _, above, parent, place, depth = heapq.heappop(heap)
        order = orders[depth - 1]
        found.append((parent, order[place][1]))
        worths.append(-worth)
        if place + 1 < len(order):
            heapq.heappush(heap, (-above * order[place + 1][0], pushed, above, parent, place + 1, depth))
        if depth < len(orders) and orders[depth]:
            heapq.heappush(heap, (-worth * orders[depth][0][0], pushed + 1, worth, len(found) - 1, 0,
                                  depth + 1))
        pushed += 2
    return found, worths


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
