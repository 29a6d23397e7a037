"""Who may look at what: against an oracle, and on the model by perturbing rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.runtime.masks import Masks, ancestors
from workbench.runtime.verify import depths

CPU = torch.device("cpu")


def make(pads: list[int] | None = None, capacity: int = 32, **options: Any) -> Masks:
    return Masks(pads or [0], capacity, device=CPU, dtype=torch.float32, **options)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 20), max_size=12))
def test_ancestors_against_following_the_parents(raw: list[int]) -> None:
    parents = [min(p, i - 1) for i, p in enumerate(raw)]
    table = ancestors(parents)
    for node in range(len(parents)):
        seen, at = {0}, node
        while at >= 0:
            seen.add(at + 1)
            at = parents[at]
        assert set(table[node + 1].nonzero()[:, 0].tolist()) == seen


def test_nothing_hidden_needs_no_mask() -> None:
    assert make().rows(5, 1) is None
    assert make().rows(0, 7) is None
    assert make().tree(5, [], []) is None


def test_later_chunk_sees_the_past_and_is_causal() -> None:
    mask = make().rows(2, 3)
    assert mask is not None
    assert torch.equal(mask[0, 0] == 0, torch.tensor(
        [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool))


def test_pads_are_hidden_from_everyone_but_themselves() -> None:
    mask = make([2, 0]).rows(0, 3)
    assert mask is not None
    assert torch.equal(mask[0, 0] == 0, torch.tensor(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.bool))
    assert torch.equal(mask[1, 0] == 0, torch.ones(3, 3, dtype=torch.bool).tril())


def test_window_counts_positions_not_rows() -> None:
    """Two siblings at the same depth are equally far from the past."""
    mask = make(window=3).tree(4, [-1, -1], [1, 1])
    assert mask is not None
    allowed = mask[0, 0] == 0
    # columns: four cached (positions 0-3), root (4), two nodes (5)
    assert allowed[0].tolist() == [False, False, True, True, True, False, False]
    assert allowed[1].tolist() == [False, False, False, True, True, True, False]
    assert allowed[2].tolist() == [False, False, False, True, True, False, True]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(-1, 9), max_size=8), st.integers(1, 3),
       st.sampled_from([1, 8]))
def test_tree_mask_against_an_oracle(base: int, raw: list[int], groups: int, block: int) -> None:
    parents = [min(p, i - 1) for i, p in enumerate(raw)]
    mask = make(capacity=64, groups=groups, block=block).tree(base, parents, depths(parents))
    n = 1 + len(parents)
    if mask is None:
        assert block == 1
        assert n == 1
        return
    width = -(-(base + n) // block) * block
    want = torch.zeros(n, width, dtype=torch.bool)
    want[:, :base] = True
    want[:, base:base + n] = ancestors(parents)
    assert mask.shape == (1, 1, 1 if n == 1 else n * groups, width)
    assert torch.equal(mask[0, 0] == 0, want if n == 1 else want.repeat(groups, 1))


def test_grouped_heads_get_the_same_rows() -> None:
    mask, folded = make().rows(2, 3), make(groups=2).rows(2, 3)
    assert mask is not None
    assert folded is not None
    assert torch.equal(folded, torch.cat([mask, mask], 2))


PARENTS = [-1, -1, 0, 1, 2]


def verify(model: Any, prefix: list[int], nodes: list[int], parents: list[int]) -> torch.Tensor:
    """Logits of root and nodes, through a fresh cache."""
    forward = model.forward
    cache = model.cache(model.settings, 1, 64)
    masks = forward.masks([0], 64)
    with torch.inference_mode():
        base = len(prefix) - 1
        forward(torch.tensor([prefix[:-1]]), torch.arange(base)[None], masks.rows(0, base), cache, 1)
        deep = depths(parents)
        cache.show_blocks(masks.block)
        places = torch.tensor([[base, *(base + d for d in deep)]])
        return forward(torch.tensor([[prefix[-1], *nodes]]), places,
                       masks.tree(base, parents, deep), cache, 1 + len(nodes))[0]


def test_every_tree_row_equals_its_own_causal_run(model: Any) -> None:
    prefix, nodes = [10, 20, 30, 40], [50, 60, 70, 80, 90]
    logits = verify(model, prefix, nodes, PARENTS)
    for node in range(len(nodes)):
        path, at = [], node
        while at >= 0:
            path.insert(0, nodes[at])
            at = PARENTS[at]
        alone = verify(model, prefix, path, list(range(-1, len(path) - 1)))
        assert torch.allclose(logits[node + 1], alone[-1], atol=1e-4)


@pytest.mark.parametrize("changed", range(5))
def test_a_row_moves_only_its_descendants(model: Any, changed: int) -> None:
    prefix, nodes = [10, 20, 30, 40], [50, 60, 70, 80, 90]
    other = [n + (7 if i == changed else 0) for i, n in enumerate(nodes)]
    one, two = verify(model, prefix, nodes, PARENTS), verify(model, prefix, other, PARENTS)
    below = {changed}
    for node, parent in enumerate(PARENTS):
        if parent in below:
            below.add(node)
    moved = {i - 1 for i in range(1, 6) if not torch.allclose(one[i], two[i], atol=1e-4)}
    assert moved == below
