"""One choice per matrix, least loss under a budget: the multiple-choice knapsack, solved exactly.

Dynamic programming over Pareto sets (Nemhauser and Ullmann 1969; Kellerer, Pferschy, Pisinger 2004,
"Knapsack Problems", section 11.5): after each matrix only the mixtures remain that no other beats in both
cost and loss. The sets stay small because matrices of one shape have the same costs. Costs are whole
numbers (bytes, nanoseconds), so that sums are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workbench.errors import SettingsError

#: More mixtures than this between two matrices are refused rather than taken into memory.
MOST_STATES = 4_000_000


@dataclass(frozen=True)
class Choice:
    """One way to store one matrix. ``cost``: bytes or nanoseconds; ``loss``: nats per token."""

    name: str
    cost: int
    loss: float


@dataclass(frozen=True)
class Solution:
    """``picks``: one index per matrix into its choices."""

    picks: tuple[int, ...]
    cost: int
    loss: float


@dataclass
class _Stage:
    cost: np.ndarray  # int64, ascending
    loss: np.ndarray  # float64, descending
    parent: np.ndarray  # int32: state of the stage before
    pick: np.ndarray  # int16


def solve(options: Sequence[Sequence[Choice]], budget: int) -> Solution:
    """The least summed loss with at most ``budget`` cost; of equal losses the cheaper one.

    Raises SettingsError where even the cheapest choices cost more."""
    stages = _stages(options, budget)
    return _trace(stages, len(stages[-1].cost) - 1)


def frontier(options: Sequence[Sequence[Choice]], budget: int, points: int = 64) -> list[Solution]:
    """Best mixtures from the cheapest to ``budget``, at most ``points`` of them, evenly in cost."""
    stages = _stages(options, budget)
    cost = stages[-1].cost
    wanted = np.linspace(cost[0], cost[-1], max(2, points))
    at = sorted({int(np.searchsorted(cost, w, side="right")) - 1 for w in wanted})
    return [_trace(stages, i) for i in at]


def _stages(options: Sequence[Sequence[Choice]], budget: int) -> list[_Stage]:
    if not options or not all(options):
        raise SettingsError("there is nothing to choose from: give at least one matrix and one scheme for it")
    least = [min(c.cost for c in found) for found in options]
    if sum(least) > budget:
        raise SettingsError(f"the budget of {budget:,} is below {sum(least):,}, which the cheapest schemes "
                            "need; raise it or allow fewer bits")
    rest = sum(least)
    stages = [_Stage(np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.int32), np.zeros(1, np.int16))]
    for found, smallest in zip(options, least, strict=True):
        rest -= smallest
        stages.append(_extend(stages[-1], found, budget - rest))
    return stages


def _extend(before: _Stage, found: Sequence[Choice], limit: int) -> _Stage:
    costs, losses, parents, picks = [], [], [], []
    for index, choice in enumerate(found):
        cost = before.cost + choice.cost
        fits = cost <= limit
        costs.append(cost[fits])
        losses.append(before.loss[fits] + choice.loss)
        parents.append(np.flatnonzero(fits).astype(np.int32))
        picks.append(np.full(int(fits.sum()), index, np.int16))
    cost, loss = np.concatenate(costs), np.concatenate(losses)
    order = np.lexsort((loss, cost))
    best = np.minimum.accumulate(loss[order])
    keep = order[np.concatenate(([True], best[1:] < best[:-1]))]
    if len(keep) > MOST_STATES:
        raise SettingsError(f"{len(keep):,} mixtures would have to be compared; offer fewer schemes")
    return _Stage(cost[keep], loss[keep], np.concatenate(parents)[keep], np.concatenate(picks)[keep])


def _trace(stages: list[_Stage], index: int) -> Solution:
    cost, loss = int(stages[-1].cost[index]), float(stages[-1].loss[index])
    picks = []
    for stage in reversed(stages[1:]):
        picks.append(int(stage.pick[index]))
        index = int(stage.parent[index])
    return Solution(tuple(reversed(picks)), cost, loss)
