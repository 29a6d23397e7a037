"""L-Mul: where it is exact, where its two readings part, and how far off they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import SettingsError
from workbench.formats import lmul


def gaussian(n: int = 200_000, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("variant", "rms", "bias", "largest"), [("formula", 0.082, -0.045, 0.23),
                                                                 ("adder", 0.032, 0.004, 0.073)])
def test_errors_on_gaussian_operands(variant: str, rms: float, bias: float, largest: float) -> None:
    found = lmul.error(gaussian(), gaussian(seed=1), 23, variant)
    assert found.rms == pytest.approx(rms, abs=0.004)
    assert found.bias == pytest.approx(bias, abs=0.004)
    assert found.largest == pytest.approx(largest, abs=0.02)


@pytest.mark.parametrize("m", [2, 3, 4, 7, 23])
def test_powers_of_two_are_off_by_the_constant_alone(m: int) -> None:
    x, y = torch.tensor([1.0, -2.0, 0.25, 8.0]), torch.tensor([4.0, 0.5, -1.0, 2.0])
    for variant in lmul.VARIANTS:
        got = lmul.multiply(x, y, m, variant)
        assert torch.equal(got, x * y * (1 + 2.0 ** -lmul.offset_bits(m)))


@given(st.floats(1, 1.9), st.floats(1, 1.9), st.integers(-8, 8), st.sampled_from([2, 3, 4, 7, 23]))
def test_both_readings_agree_unless_the_mantissa_carries(a: float, b: float, e: int, m: int) -> None:
    x, y = torch.tensor([a * 2.0**e]), torch.tensor([-b])
    adder, formula = (float(lmul.multiply(x, y, m, v)) for v in ("adder", "formula"))
    parts = [float(lmul.shorten(torch.tensor([v]), m)) - 1 for v in (a, b)]
    carried = sum(parts) + 2.0 ** -lmul.offset_bits(m) >= 1 or max(parts) >= 1
    assert adder == formula or carried
    assert adder <= 0
    assert float(lmul.multiply(y, x, m, "adder")) == adder  # commutes


@pytest.mark.parametrize("variant", lmul.VARIANTS)
def test_zero_stays_zero_and_the_range_is_kept(variant: str) -> None:
    x = torch.tensor([0.0, -0.0, 3e38, 1e-38, 1e-40])
    y = torch.tensor([5.0, -7.0, 3e38, 1e-30, 1.0])
    got = lmul.multiply(x, y, 4, variant)
    assert got[:2].abs().tolist() == [0.0, 0.0]
    assert bool(torch.isfinite(got).all())
    assert got[2] > 3e38
    assert got[3:].tolist() == [0.0, 0.0]


def test_products_of_matrices_average_errors_out() -> None:
    x, w = gaussian(40 * 64).view(40, 64), gaussian(32 * 64, 1).view(32, 64)
    exact = x.double() @ w.double().T
    got = lmul.matmul(x, w, 4, "adder", rows=7)
    one_by_one = torch.stack([lmul.multiply(row, w, 4, "adder").sum(-1) for row in x])
    torch.testing.assert_close(got, one_by_one)
    assert float((got - exact).norm() / exact.norm()) < 0.08


@pytest.mark.parametrize("m", [1, 3, 7, 10])
def test_shortening_is_rounding_to_nearest_even(m: int) -> None:
    x = gaussian(10_000)
    step = torch.exp2(torch.floor(torch.log2(x.abs().double())) - m)
    assert torch.equal(lmul.shorten(x, m).double(), (x.double() / step).round() * step)
    if m == 7:
        assert torch.equal(lmul.shorten(x, m), x.bfloat16().float())


def test_the_energy_is_the_tables() -> None:
    assert lmul.energy_saved() == pytest.approx(1 - 0.1 / 3.7)
    with pytest.raises(SettingsError, match="choose one of"):
        lmul.energy_saved("fp4 multiply")


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(SettingsError, match="1 to 23"):
        lmul.multiply(torch.ones(1), torch.ones(1), 0)
    with pytest.raises(SettingsError, match="formula or adder"):
        lmul.multiply(torch.ones(1), torch.ones(1), 4, "shifter")


@pytest.mark.parametrize("variant", lmul.VARIANTS)
@pytest.mark.parametrize("mantissa", [2, 3, 4, 7])
def test_split_operands_give_the_products_one_by_one(variant: str, mantissa: int) -> None:
    x, w = gaussian()[:15 * 40].view(15, 40).clone(), gaussian(seed=1)[:9 * 40].view(9, 40) * 1e-3
    x[0, 0], x[1], w[0, 1] = 0.0, 1.0, 1e-40  # zeros, no fraction, a denormal
    one_by_one = lmul.matmul(x, w, mantissa, variant)
    assert torch.allclose(lmul.products(x, w, mantissa, variant), one_by_one, rtol=1e-5, atol=1e-8)


def test_a_whole_model_runs_by_additions_and_says_so() -> None:
    from workbench.quality import evaluate
    from workbench.runtime import load
    from workbench.settings import Settings

    found = {}
    for scheme in ("bf16", "lmul", "lmul(variant=adder)"):
        model = load(Settings().with_({"model.source": "wb-1m", "compute.threads": 1, "weights": scheme}),
                     lambda e: None)
        try:
            found[scheme] = evaluate(model, ["def add(a, b):\n    return a + b\n" * 3], lambda e: None,
                                     lambda: False).perplexity
            if scheme != "bf16":
                assert "emulated" in model.loaded.effective["weights"].effective
                assert "estimated" in model.loaded.effective["weights"].effective
        finally:
            model.close()
    assert found["lmul"] != found["bf16"]
    assert found["lmul(variant=adder)"] == pytest.approx(found["bf16"], rel=0.2)
