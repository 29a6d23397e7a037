"""One choice per place, at least total score, under budgets: solved exactly as a mixed-integer program.

Puzzle (Bercovich et al. 2024, arXiv:2411.19146, section 4.3): binary x[l, v], one variant per layer,
minimise the sum of scores subject to sums of costs. Solved by HiGHS (``scipy.optimize.milp``).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.errors import SettingsError


@dataclass(frozen=True)
class Choice:
    """One variant of one place: its ``score`` (lower is better) and its ``costs`` by name."""

    name: str
    score: float
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Solution:
    """``picks``: index of the chosen variant per place; ``score`` and ``costs`` are sums over them."""

    picks: tuple[int, ...]
    score: float
    costs: dict[str, float]


def total(places: Sequence[Sequence[Choice]], picks: Sequence[int], budgets: Mapping[str, float]) -> Solution:
    """The sums of one assignment."""
    chosen = [place[i] for place, i in zip(places, picks, strict=True)]
    return Solution(tuple(picks), sum(c.score for c in chosen),
                    {k: sum(c.costs[k] for c in chosen) for k in budgets})


def solve(places: Sequence[Sequence[Choice]], budgets: Mapping[str, float]) -> Solution:
    """The best assignment with every sum of costs within its budget.

    Raises SettingsError where there is none, naming the budget that the cheapest variants miss, or where a
    score or cost is not finite."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    _check(places, budgets)
    flat = [(p, c) for p, place in enumerate(places) for c in place]
    scores = np.array([c.score for _, c in flat])
    rows = [np.array([float(p == place) for p, _ in flat]) for place in range(len(places))]
    one = LinearConstraint(np.array(rows), 1.0, 1.0)
    limits = [LinearConstraint(np.array([c.costs[k] for _, c in flat]) / _unit(limit), -np.inf,
                               limit / _unit(limit)) for k, limit in budgets.items()]
    unit = float(np.abs(scores).max()) or 1.0
    found = milp(scores / unit, constraints=[one, *limits], integrality=np.ones(len(flat)),
                 bounds=Bounds(0, 1), options={"mip_rel_gap": 0.0})
    if found.x is None:
        raise SettingsError("no choice of variants keeps " + " and ".join(
            f"{k} within {v:.4g}" for k, v in budgets.items()) + " at once; raise one of the budgets")
    taken, picks = np.round(found.x).astype(bool), []
    at = 0
    for place in places:
        picks.append(int(np.flatnonzero(taken[at:at + len(place)])[0]))
        at += len(place)
    return total(places, picks, budgets)


def brute_force(places: Sequence[Sequence[Choice]], budgets: Mapping[str, float]) -> Solution | None:
    """The same by trying everything; None where nothing fits. For small cases and tests."""
    tried = (total(places, picks, budgets) for picks in itertools.product(*(range(len(p)) for p in places)))
    fitting = [s for s in tried if all(s.costs[k] <= v * (1 + 1e-9) for k, v in budgets.items())]
    return min(fitting, key=lambda s: s.score, default=None)


def _unit(limit: float) -> float:
    return abs(limit) or 1.0


def _check(places: Sequence[Sequence[Choice]], budgets: Mapping[str, float]) -> None:
    import math

    if not places or not all(places):
        raise SettingsError("every layer needs at least one variant to choose from")
    for place in places:
        for c in place:
            if not all(map(math.isfinite, (c.score, *(c.costs[k] for k in budgets)))):
                raise SettingsError(f"the variant {c.name!r} has a score or cost that is not finite")
    for k, limit in budgets.items():
        least = sum(min(c.costs[k] for c in place) for place in places)
        if least > limit * (1 + 1e-12):
            raise SettingsError(f"{k} cannot be kept within {limit:.4g}: the cheapest variants already need "
                                f"{least:.4g}")
