"""The exact choice under budgets: equal to trying everything, monotone, and clear about the impossible."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import SettingsError
from workbench.structure.choosing import Choice, brute_force, solve, total


def places(seed: int, layers: int = 5, variants: int = 4) -> list[list[Choice]]:
    r = random.Random(seed)
    made = []
    for _ in range(layers):
        full = Choice("full", 0.0, {"bytes": 100.0, "ms": 3.0})
        made.append([full, *(Choice(f"v{i}", r.random(), {"bytes": r.uniform(0, 100), "ms": r.uniform(0, 3)})
                             for i in range(variants - 1))])
    return made


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 1.0), tight=st.floats(0.05, 1.0))
def test_the_program_is_as_good_as_trying_everything(seed: int, share: float, tight: float) -> None:
    all_, budgets = places(seed), {"bytes": 500 * share, "ms": 15 * tight}
    best = brute_force(all_, budgets)
    if best is None:
        with pytest.raises(SettingsError, match=r"budget|cannot be kept"):
            solve(all_, budgets)
        return
    found = solve(all_, budgets)
    assert found.score == pytest.approx(best.score, abs=1e-7)
    assert all(found.costs[k] <= v * (1 + 1e-6) for k, v in budgets.items())
    assert found == total(all_, found.picks, budgets)


def test_the_parent_wins_at_full_budget_and_tightening_never_helps() -> None:
    all_ = places(3)
    scores = [solve(all_, {"bytes": 500 * s, "ms": 15.0}).score for s in (1.0, 0.8, 0.6, 0.45)]
    assert scores[0] == 0
    assert scores == sorted(scores)
    assert scores[-1] > 0


def test_what_cannot_fit_names_its_budget() -> None:
    with pytest.raises(SettingsError, match="ms cannot be kept within 0"):
        solve([[Choice("a", 0, {"ms": 1.0})]], {"ms": 0.0})
    with pytest.raises(SettingsError, match="not finite"):
        solve([[Choice("a", float("nan"), {"ms": 1.0})]], {"ms": 2.0})
    with pytest.raises(SettingsError, match="at least one"):
        solve([[]], {"ms": 2.0})
