"""The exact choice under a budget: against brute force, against an integer programme, and its refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as few
from hypothesis import strategies as st

from workbench.errors import SettingsError
from workbench.sensitivity.solve import Choice, frontier, solve

CHOICE = st.builds(Choice, st.just("x"), st.integers(0, 12), st.integers(0, 40).map(lambda n: n / 8))
OPTIONS = st.lists(st.lists(CHOICE, min_size=1, max_size=4), min_size=1, max_size=5)


def brute(options: list[list[Choice]], budget: int) -> tuple[float, int]:
    every = ((sum(c.loss for c in m), sum(c.cost for c in m)) for m in itertools.product(*options))
    return min(m for m in every if m[1] <= budget)


@given(OPTIONS, st.integers(0, 30))
@few(max_examples=300, deadline=None)
def test_the_best_of_all_mixtures(options: list[list[Choice]], extra: int) -> None:
    budget = sum(min(c.cost for c in found) for found in options) + extra
    got = solve(options, budget)
    loss, cost = brute(options, budget)
    assert (got.loss, got.cost) == (loss, cost)
    chosen = [found[i] for found, i in zip(options, got.picks, strict=True)]
    assert sum(c.cost for c in chosen) == got.cost <= budget
    assert sum(c.loss for c in chosen) == got.loss


def drawn(matrices: int, seed: int = 0) -> list[list[Choice]]:
    """As a model has them: three shapes, five schemes, loss falling steeply with the bytes."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice([147_456, 49_152, 393_216], matrices)
    return [[Choice(str(b), int(n * b / 8), float(rng.lognormal() * 4.0 ** -b)) for b in (2, 3, 4, 5, 8)]
            for n in sizes]


def test_a_whole_model_as_an_integer_programme_says() -> None:
    milp = pytest.importorskip("scipy.optimize")
    options = drawn(56)
    budget = sum(found[-1].cost for found in options) // 2
    flat = [c for found in options for c in found]
    one = np.kron(np.eye(len(options)), np.ones(5))
    result = milp.milp(
        [c.loss for c in flat], integrality=np.ones(len(flat)), bounds=milp.Bounds(0, 1),
        constraints=[milp.LinearConstraint(one, 1, 1),
                     milp.LinearConstraint([[c.cost for c in flat]], 0, budget)],
        options={"mip_rel_gap": 0.0})
    assert solve(options, budget).loss == pytest.approx(result.fun, rel=1e-9)


def test_three_hundred_matrices_take_a_moment() -> None:
    options = drawn(300, seed=1)
    budget = sum(found[2].cost for found in options)
    got = solve(options, budget)
    uniform = sum(found[2].loss for found in options)
    assert got.loss < uniform
    assert budget - got.cost < 393_216  # nothing that would still fit a larger step is left over


def test_the_frontier_falls() -> None:
    options = drawn(20)
    found = frontier(options, sum(c[-1].cost for c in options), points=16)
    assert 8 <= len(found) <= 16
    for a, b in itertools.pairwise(found):
        assert a.cost < b.cost
        assert a.loss > b.loss
    assert found[-1] == solve(options, sum(c[-1].cost for c in options))


def test_a_budget_below_everything_names_the_least() -> None:
    with pytest.raises(SettingsError, match="below 3, which the cheapest"):
        solve([[Choice("a", 3, 1.0), Choice("b", 5, 0.5)]], 2)
    with pytest.raises(SettingsError, match="nothing to choose from"):
        solve([], 5)
