"""Temperature, top-k, top-p, and noise that depends on seed and place only."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.runtime.sampling import Sampler, mix


def test_greedy_is_the_argmax() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert Sampler().choose(logits, [0, 1]).tolist() == [1, 0]
    assert Sampler().probabilities(logits)[0].tolist() == [0, 1, 0]


def test_top_k_and_top_p() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    assert Sampler(1.0, top_k=2).probabilities(logits).tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert Sampler(1.0, top_p=0.7).probabilities(logits).tolist() == pytest.approx(
        [0.625, 0.375, 0, 0])
    assert Sampler(1.0, top_p=0.01).probabilities(logits).tolist() == [1, 0, 0, 0]
    assert Sampler(1.0, top_k=9, top_p=1.0).probabilities(logits).tolist() == pytest.approx(
        [0.5, 0.3, 0.15, 0.05])


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 5), st.integers(0, 12), st.floats(0.05, 1.0), st.integers(0, 2**31))
def test_probabilities_are_a_distribution(temperature: float, top_k: int, top_p: float, seed: int
                                          ) -> None:
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(seed)) * 4
    p = Sampler(temperature, top_k, top_p).probabilities(logits)
    assert torch.allclose(p.sum(-1), torch.ones(3), atol=1e-5)
    assert (p >= 0).all()
    assert (p.argmax(-1) == logits.argmax(-1)).all()
    if 0 < top_k < 10:
        assert ((p > 0).sum(-1) <= top_k).all()


def test_noise_depends_on_seed_sequence_and_position_only() -> None:
    logits = torch.zeros(1, 500)
    a, b = Sampler(1.0, seed=3), Sampler(1.0, seed=3)
    first = [int(a.choose(logits, [p])) for p in range(80)]
    assert [int(b.choose(logits, [p])) for p in reversed(range(80))] == first[::-1]
    assert int(a.choose(logits, [0], [1])) != first[0] or int(a.choose(logits, [1], [1])) != first[1]
    assert [int(Sampler(1.0, seed=4).choose(logits, [p])) for p in range(80)] != first


def test_rows_at_once_are_the_rows_one_by_one() -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(0.8, seed=9)
    at_once = sampler.choose(logits, list(range(5))).tolist()
    assert at_once == [int(sampler.choose(logits[i:i + 1], [i])) for i in range(5)]


def test_draws_over_positions_follow_the_distribution() -> None:
    p = torch.tensor([[0.6, 0.25, 0.1, 0.05]])
    sampler = Sampler(1.0, seed=1)
    n = 20_000
    counts = torch.zeros(4)
    for position in range(n):
        counts[int(sampler.draw(p, [position]))] += 1
    chi = float(((counts - n * p[0]) ** 2 / (n * p[0])).sum())
    assert chi < 3 + 4 * 6**0.5


def test_mix_spreads_neighbours() -> None:
    low = {mix(0, 0, i, 0) & 0xFFFFFFFF for i in range(2000)}
    assert len(low) == 2000
    assert all(0 <= mix(2**63 - 1, i, i) < 2**63 for i in range(50))
