"""Grids: against torch's own 8-bit floats, against the standards' tables, and rounding itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import SettingsError
from workbench.formats import elements

GRIDS = [elements.E2M1, elements.E2M3, elements.E3M2, elements.E4M3, elements.E5M2, elements.UE5M3,
         elements.NF4, elements.integers(2), elements.integers(3), elements.integers(8),
         elements.minifloat(3, 0), elements.minifloat(1, 2)]


@pytest.mark.parametrize(("element", "dtype"), [(elements.E4M3, torch.float8_e4m3fn),
                                                (elements.E5M2, torch.float8_e5m2)])
def test_all_codes_and_a_million_roundings_equal_torch(element: elements.Element, dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    theirs, ours = codes.view(dtype).float(), elements.decode(codes, element)
    finite = torch.isfinite(theirs)
    assert torch.equal(theirs[finite], ours[finite])
    assert bool(ours[~finite].isnan().all())
    x = torch.randn(1 << 20, generator=torch.Generator().manual_seed(1)) * 50
    x[:256] = torch.linspace(-element.largest, element.largest, 256)
    x[1000:2000] *= 1e-5  # denormals and zeros
    x = x.clamp(-element.largest, element.largest)
    assert torch.equal(x.to(dtype).view(torch.uint8), elements.encode(x, element))


def test_every_code_equals_ml_dtypes() -> None:
    ml = pytest.importorskip("ml_dtypes")
    import numpy as np

    for element, name in ((elements.E2M1, "float4_e2m1fn"), (elements.E2M3, "float6_e2m3fn"),
                          (elements.E3M2, "float6_e3m2fn"), (elements.E4M3, "float8_e4m3fn")):
        dtype = np.dtype(getattr(ml, name))
        x = np.random.default_rng(2).normal(size=50_000).astype(np.float32) * element.largest / 3
        x = x.clip(-element.largest, element.largest)
        theirs = torch.from_numpy(x.astype(dtype).astype(np.float32))
        assert torch.equal(theirs, elements.to_nearest(torch.from_numpy(x), element))


def test_e2m1_is_the_table_of_the_standard() -> None:
    assert elements.E2M1.levels[:8] == (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    assert elements.E4M3.largest == 448
    assert elements.E5M2.largest == 57344
    assert elements.UE5M3.largest == 114688
    assert elements.E2M1.top_exponent == 2


@pytest.mark.parametrize("element", GRIDS, ids=lambda e: e.name)
def test_a_level_keeps_its_value_and_nothing_is_nearer(element: elements.Element) -> None:
    finite = torch.tensor([v for v in element.levels if v is not None], dtype=torch.float64)
    assert torch.equal(elements.to_nearest(finite, element), finite)
    span = float(finite.abs().max())
    x = (torch.rand(3000, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1) * span
    error = (elements.to_nearest(x, element) - x).abs()
    nearest = (finite[None] - x[:, None]).abs().amin(1)
    assert torch.equal(error, nearest)


def test_ties_go_to_the_even_code_and_the_far_ends_saturate() -> None:
    x = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 100.0, -0.25, -2.5, -100.0])
    assert elements.to_nearest(x, elements.E2M1).tolist() == [
        0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0, -0.0, -2.0, -6.0]


@given(st.floats(-6, 6, allow_nan=False), st.integers(0, 3), st.integers(0, 4))
def test_encoding_is_monotone(x: float, exponent: int, mantissa: int) -> None:
    if exponent + mantissa == 0:
        return
    element = elements.minifloat(exponent, mantissa)
    pair = torch.tensor([x, x + 0.01], dtype=torch.float64)
    low, high = elements.to_nearest(pair, element).tolist()
    assert low <= high


@pytest.mark.parametrize("call", [lambda: elements.minifloat(5, 3), lambda: elements.integers(9),
                                  lambda: elements.minifloat(0, 0, signed=False)])
def test_what_does_not_fit_says_so(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SettingsError, match="bits"):
        call()
