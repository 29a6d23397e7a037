"""The tree chosen for a machine: no tree of any shape gives more tokens per second."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import pytest

from workbench.techniques.decoding._planner import Acceptance, Curve, Plan, best


def all_trees(most: int, depths: int, ranks: int) -> Iterator[list[tuple[int, ...]]]:
    """Every set of paths of ranks that holds each path's beginning too."""
    paths = [p for d in range(1, depths + 1) for p in itertools.product(range(ranks), repeat=d)]
    for n in range(most + 1):
        for chosen in itertools.combinations(paths, n):
            held = set(chosen)
            if all(len(p) == 1 or p[:-1] in held for p in chosen):
                yield list(chosen)


def worth(path: Sequence[int], chances: Sequence[Sequence[float]]) -> float:
    product = 1.0
    for depth, rank in enumerate(path):
        product *= chances[depth][rank]
    return product


def brute_force(chances: list[list[float]], verify: Curve, draft_s: float, most: int) -> float:
    """Tokens per second of the best tree of all."""
    top = 0.0
    for tree in all_trees(most, len(chances), len(chances[0])):
        seconds = verify(1 + len(tree)) + draft_s * max(map(len, tree), default=0)
        top = max(top, (1 + sum(worth(p, chances) for p in tree)) / seconds)
    return top


@pytest.mark.parametrize("seed", range(40))
def test_no_tree_gives_more_tokens_per_second(seed: int) -> None:
    dice = random.Random(seed)
    depths, ranks = dice.choice([(3, 2), (2, 3), (4, 1), (2, 2)])
    chances = []
    for _ in range(depths):
        row = sorted((dice.random() for _ in range(ranks)), reverse=True)
        chances.append([c / max(1.0, sum(row)) for c in row])
    steps = [1.0]
    for _ in range(6):
        steps.append(steps[-1] + dice.choice([0.0, 0.05, 0.3]) * dice.random())
    verify = Curve(tuple(range(1, 8)), tuple(steps))
    draft_s = dice.choice([0.0, 0.1, 0.4])
    plan = best(chances, verify, lambda depth: draft_s * depth, most=5)
    assert plan.rate == pytest.approx(brute_force(chances, verify, draft_s, 5), rel=1e-12)
    assert plan.rate == pytest.approx(_rate_of(plan, chances, verify, draft_s), rel=1e-12)


def _rate_of(plan: Plan, chances: list[list[float]], verify: Curve, draft_s: float) -> float:
    """Computed anew from the template."""
    paths: list[tuple[int, ...]] = []
    for parent, rank in plan.template:
        paths.append((() if parent < 0 else paths[parent]) + (rank,))
    assert len(set(paths)) == len(paths)
    seconds = verify(1 + len(paths)) + draft_s * plan.depth
    return (1 + sum(worth(p, chances) for p in paths)) / seconds


def test_dear_rows_give_no_tree_and_free_rows_the_largest() -> None:
    chances = [[0.5, 0.2]] * 3
    dear = Curve((1, 64), (1.0, 64.0))
    free = Curve((1, 64), (1.0, 1.0))
    assert best(chances, dear, most=10).template == []
    assert best(chances, free, most=10).nodes == 10


def test_a_draft_that_costs_much_by_depth_makes_a_broad_tree() -> None:
    chances = [[0.5, 0.3, 0.15]] * 4
    free = Curve((1, 64), (1.0, 1.0))
    assert best(chances, free, lambda depth: 0.6 * depth, most=20).depth < best(chances, free, most=20).depth


def test_a_curve_is_read_between_and_beyond_its_points() -> None:
    curve = Curve((1, 4, 8), (1.0, 1.6, 3.6))
    assert [curve(n) for n in (1, 2, 4, 6, 8, 10)] == pytest.approx([1.0, 1.2, 1.6, 2.6, 3.6, 4.6])
    assert Curve((1,), (2.0,))(9) == 2.0


def test_acceptance_is_learnt_by_depth_and_rank() -> None:
    dice, true = random.Random(1), [[0.7, 0.1], [0.3, 0.3]]
    seen = Acceptance(2, (0.4, 0.2))
    for _ in range(1500):
        for depth in (1, 2):
            draw, row = dice.random(), true[depth - 1]
            right = 0 if draw < row[0] else 1 if draw < sum(row) else None
            seen.count(depth, (0, 1), right)
    for row, wanted in zip(seen.chances(), true, strict=True):
        assert row == pytest.approx(wanted, abs=0.12)  # about 3 standard errors of 200 observations


def test_what_was_not_tried_leans_on_the_depth_above() -> None:
    seen = Acceptance(3, (0.4, 0.2))
    for _ in range(400):
        seen.count(1, (0,), 0)
    first, second, third = seen.chances()
    assert first[0] > 0.8
    assert second == pytest.approx(first)
    assert third == pytest.approx(first)
    assert all(sum(row) <= 1.0 + 1e-12 for row in (first, second, third))


@pytest.mark.parametrize("data", [None, {}, {"right": [[1.0]], "tried": [[1.0]]},
                                  {"right": [[2.0, 0.0]] * 2, "tried": [[1.0, 1.0]] * 2},
                                  {"right": [["x", 1]] * 2, "tried": [[1, 1]] * 2}])
def test_statistics_of_another_kind_are_not_taken(data: object) -> None:
    seen = Acceptance(2, (0.4, 0.2))
    assert not seen.load(data)
    assert seen.seen() == 0.0


def test_statistics_survive_being_written() -> None:
    seen, again = Acceptance(2, (0.4, 0.2)), Acceptance(2, (0.4, 0.2))
    seen.count(1, (0, 1), 1)
    assert again.load(seen.to_dict())
    assert again.chances() == seen.chances()
