"""Error bars that mean what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from workbench.quality.statistics import Series, mean_and_error, perplexity, quantile


def test_mean_and_error_of_independent_values() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, 20_000)
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(2.0, abs=4 * 3 / math.sqrt(20_000))
    assert error == pytest.approx(3 / math.sqrt(20_000), rel=0.2)


def test_correlated_values_get_a_bigger_error() -> None:
    """Tokens that come in runs of sixteen equal ones are 1/16 as many draws."""
    values = np.repeat(np.random.default_rng(1).normal(0, 1, 2000), 16)
    _, error = mean_and_error(values)
    naive = values.std(ddof=1) / math.sqrt(len(values))
    assert error is not None
    assert error > 3 * naive


def test_the_error_covers_the_truth_as_often_as_it_should() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(300):
        mean, error = mean_and_error(rng.exponential(1.0, 640))
        assert error is not None
        inside += abs(mean - 1.0) < 2 * error
    assert inside / 300 > 0.9


def test_perplexity_by_the_delta_method() -> None:
    value, error = perplexity(np.log(np.full(400, 7.0)))
    assert value == pytest.approx(7.0)
    assert error == pytest.approx(0.0, abs=1e-9)


def test_quantile_and_its_spread() -> None:
    value, error = quantile(np.random.default_rng(3).uniform(0, 1, 10_000), 0.99)
    assert value == pytest.approx(0.99, abs=0.005)
    assert error is not None
    assert 0.0002 < error < 0.005


def test_nothing_is_not_a_number() -> None:
    assert math.isnan(mean_and_error(np.zeros(0))[0])
    assert mean_and_error(np.zeros(1))[1] is None
    series = Series()
    assert len(series) == 0
    series.add(np.ones(3))
    series.add(np.zeros(2))
    assert series.values().tolist() == [1, 1, 1, 0, 0]
