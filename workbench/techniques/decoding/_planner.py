"""The tree that gives the most tokens per second, from acceptance by place and the cost of a row.

A node at depth d (1 below the root) whose token is its parent's guess of rank r is right with chance
a[d][r] when its parent is; a node's worth is the product along its path, and a tree's expected yield is one
(the target's own token) and the worths of all nodes. For such chances the best tree of n nodes holds the n
worthiest ones that are no deeper than allowed, since a child is never worth more than its parent (Sequoia,
Chen et al. 2024, arXiv:2402.12374, section 4.1; the tables of PPD, Chen et al. 2024, arXiv:2405.18628,
section 4, are of this form). The size and the depth are then chosen for this machine:

    maximize  (1 + worths of the tree's nodes) / (t(1 + nodes) + draft(depth))

over every depth allowed and every number of nodes, with t the measured seconds of a verification. This is
exact for product-form chances: depth by depth, the n worthiest nodes have the highest yield at that cost.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.techniques.decoding._trees import Template, worthiest

#: Observations that the prior counts for at each place, and how fast old ones fade.
PRIOR_WEIGHT, FADE = 12.0, 0.995


@dataclass(frozen=True)
class Curve:
    """Seconds of one forward by its rows: measured points, straight lines between them.

    ``rows`` ascending from 1; ``seconds`` never falls. ``where`` says what was measured."""

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    where: str = ""

    def __call__(self, rows: int) -> float:
        """Beyond the last point the last two points' line goes on."""
        if len(self.rows) == 1:
            return self.seconds[0]
        right = min(max(1, bisect.bisect_left(self.rows, rows)), len(self.rows) - 1)
        a, b = self.rows[right - 1], self.rows[right]
        share = (rows - a) / (b - a)
        return self.seconds[right - 1] + share * (self.seconds[right] - self.seconds[right - 1])

    @property
    def most(self) -> int:
        """Rows of the largest forward measured."""
        return self.rows[-1]


@dataclass(frozen=True)
class Plan:
    """A tree with what is expected of it. ``rate``: tokens per second; ``tokens`` per verification."""

    template: Template
    depth: int
    tokens: float
    seconds: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    @property
    def nodes(self) -> int:
        return len(self.template)

    def describe(self) -> str:
        return (f"{self.nodes} nodes, {self.depth} deep: {self.tokens:.2f} tokens in "
                f"{self.seconds * 1e3:.2f} ms expected")


def best(chances: Sequence[Sequence[float]], verify: Callable[[int], float],
         draft: Callable[[int], float] | None = None, most: int = 63, least: int = 0) -> Plan:
    """The tree with the most expected tokens per second. ``chances[d - 1][r]`` as above, ``verify(rows)``
    and ``draft(depth)`` (None: depth is free) in seconds, ``least`` to ``most`` nodes. With ``least`` 0 the
    empty tree, plain decoding, is allowed too, so nothing is drafted where nothing pays."""
    found = Plan([], 0, 1.0, verify(1))
    if least:
        found = Plan([], 0, 0.0, 1.0)  # any tree is better
    for deepest in range(1 if draft else len(chances), len(chances) + 1):
        template, worths = worthiest(most, chances[:deepest])
        extra, tokens = draft(deepest) if draft else 0.0, 1.0
        for nodes, worth in enumerate(worths, 1):
            tokens += worth
            seconds = verify(1 + nodes) + extra
            if nodes >= least and tokens * found.seconds > found.tokens * seconds:
                found = Plan(template[:nodes], deepest, tokens, seconds)
    return found


@dataclass
class Acceptance:
    """How often the guess of each rank was right at each depth, counted while decoding.

    ``prior[r]``: the chance of rank r before anything was seen, at any depth."""

    depths: int
    prior: Sequence[float]
    right: list[list[float]] = field(default_factory=list)
    tried: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        empty = [[0.0] * len(self.prior) for _ in range(self.depths)]
        self.right = self.right or [list(row) for row in empty]
        self.tried = self.tried or empty

    def count(self, depth: int, ranks: Sequence[int], right: int | None) -> None:
        """At a node of ``depth`` - 1 that was kept, children of these ranks were drafted and the one of
        rank ``right`` was kept (None: none was)."""
        tried, hits = self.tried[depth - 1], self.right[depth - 1]
        for rank in ranks:
            tried[rank] = tried[rank] * FADE + 1.0
            hits[rank] = hits[rank] * FADE + (rank == right)

    def chances(self) -> list[list[float]]:
        """[depth][rank]. A place that was seldom tried leans on the one above it, and the first depth on
        the prior. A node's chances add up to one at most."""
        found: list[list[float]] = []
        above: Sequence[float] = self.prior
        for hits, tried in zip(self.right, self.tried, strict=True):
            row = [(h + PRIOR_WEIGHT * p) / (n + PRIOR_WEIGHT)
                   for h, n, p in zip(hits, tried, above, strict=True)]
            total = sum(row)
            above = [c / total for c in row] if total > 1.0 else row
            found.append(list(above))
        return found

    def seen(self) -> float:
        """Nodes whose first child was tried."""
        return sum(row[0] for row in self.tried)

    def to_dict(self) -> dict[str, Any]:
        return {"right": self.right, "tried": self.tried}

    def load(self, data: Any) -> bool:
        """Take over what :meth:`to_dict` gave; False, and nothing changed, where it does not fit."""
        try:
            right = [[float(v) for v in row] for row in data["right"]]
            tried = [[float(v) for v in row] for row in data["tried"]]
        except (KeyError, TypeError, ValueError):
            return False
        sizes = {len(right), len(tried)}, {len(row) for row in right + tried}
        sane = all(0.0 <= h <= n for hs, ns in zip(right, tried, strict=False)
                   for h, n in zip(hs, ns, strict=False))
        if sizes != ({self.depths}, {len(self.prior)}) or not sane:
            return False
        self.right, self.tried = right, tried
        return True
