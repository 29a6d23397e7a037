"""Trees grown by probabilities hold the worthiest nodes; prompts go where they are worth most."""

from __future__ import annotations

import itertools
import random

import pytest

from workbench.techniques.decoding import Proposal
from workbench.techniques.decoding._heads import Grown, grow
from workbench.techniques.decoding.ppd import plan, worth_of_prompts


def chances(ranks: int, seed: int) -> list[float]:
    r = random.Random(seed)
    cut = sorted(r.random() for _ in range(ranks))
    return sorted((b - a for a, b in zip([0.0, *cut], cut, strict=False)), reverse=True)


def paths(found: Proposal) -> list[tuple[int, ...]]:
    """The tokens from the root to each node."""
    out: list[tuple[int, ...]] = []
    for token, parent in zip(found.tokens, found.parents, strict=True):
        assert parent < len(out)
        out.append((*(out[parent] if parent >= 0 else ()), token))
    return out


@pytest.mark.parametrize("seed", range(6))
def test_a_grown_tree_is_the_best_of_its_size(seed: int) -> None:
    """Against all products of all paths."""
    levels = [([10 * d + r for r in range(4)], chances(4, 7 * seed + d)) for d in range(3)]
    worth = {}
    for deep in (1, 2, 3):
        for ranks in itertools.product(range(4), repeat=deep):
            value = 1.0
            for d, r in enumerate(ranks):
                value *= levels[d][1][r]
            worth[tuple(10 * d + r for d, r in enumerate(ranks))] = value
    found, worths = grow(levels, 9)
    best = sorted(worth.values(), reverse=True)[:9]
    assert len(set(paths(found))) == 9
    assert worths == pytest.approx(best)
    assert [worth[p] for p in paths(found)] == pytest.approx(worths)


def test_a_tree_that_depends_on_the_path_keeps_the_worthiest() -> None:
    """Each node's children follow its token; enough width sees everything."""

    def children(token: int) -> tuple[list[int], list[float]]:
        return [token * 3 + i for i in (1, 2, 3)], [0.5 / (1 + token % 3), 0.3, 0.1]

    tree = Grown()
    found = tree.grow(children(0), lambda level: [children(tree.tokens[n]) for n in level], 3, 100, 8)
    worth = {}

    def walk(path: tuple[int, ...], value: float) -> None:
        for token, chance in zip(*children(path[-1] if path else 0), strict=True):
            worth[(*path, token)] = value * chance
            if len(path) < 2:
                walk((*path, token), value * chance)

    walk((), 1.0)
    assert sorted(worth[p] for p in paths(found)) == pytest.approx(sorted(worth.values())[-8:])


@pytest.mark.parametrize("rows", [1, 3, 8, 12, 30])
@pytest.mark.parametrize("known", [0, 1, 3])
def test_prompts_stand_behind_their_nodes(rows: int, known: int) -> None:
    levels = [([50 + 10 * d + r for r in range(8)], [0.5, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.01])
              for d in range(known)]
    values = worth_of_prompts([[0.4, 0.1], [0.3, 0.1], [0.2, 0.1]], 3, 6)
    assert values == sorted(values)
    found = plan(levels, rows, values, vocab=300)
    assert len(found.tokens) <= rows
    assert len(found.tokens) == len(set(paths(found)))
    prompts = [p for p in paths(found) if p[-1] >= 300]
    assert len(prompts) == found.prompts
    assert all(t < 300 for t in found.guesses)
    for path in prompts:
        own = [t for t in path if t >= 300]
        assert own == list(range(300, 300 + len(own)))
        assert path[len(path) - len(own):] == tuple(own)
    if not known:
        assert found.guesses == []
        assert len(prompts) == min(rows, 3)


def test_prompts_go_to_where_the_walk_is_likely_to_end() -> None:
    """A first guess that is nearly certain: the next step begins there, not at the root."""
    levels = [([7, 8], [0.97, 0.01])]
    found = plan(levels, 4, [0.0, 0.5, 0.8], vocab=300)
    behind = [p for p in paths(found) if p[-1] >= 300]
    assert (7, 300) in behind
    assert (7, 300, 301) in behind
    assert (300,) not in behind or len(behind) > 2
