"""RMSNorm, RoPE and SwiGLU of the native library against their float64 definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels import native
from workbench.kernels.rmsnorm import native as rmsnorm_native
from workbench.kernels.rmsnorm import reference as rmsnorm
from workbench.kernels.rope import native as rope_native
from workbench.kernels.rope import reference as rope
from workbench.kernels.swiglu import native as swiglu_native
from workbench.kernels.swiglu import reference as swiglu

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no native library: {native.why_not()}")

EXAMPLES = settings(max_examples=40, deadline=None)
#: bfloat16 keeps 8 bits: half a unit in the last place, relative.
BF16 = 2.0 ** -8


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def close(got: torch.Tensor, wanted: torch.Tensor, relative: float, absolute: float = 1e-6) -> None:
    torch.testing.assert_close(got.double(), wanted, rtol=relative, atol=absolute)


@EXAMPLES
@given(m=st.integers(1, 9), d=st.integers(1, 300), add=st.booleans(), wide=st.booleans(),
       scale=st.sampled_from((1e-3, 1.0, 300.0)), seed=st.integers(0, 99))
def test_rmsnorm_is_the_definition(m: int, d: int, add: bool, wide: bool, scale: float, seed: int
                                   ) -> None:
    x, weight = randn(m, d, seed=seed, scale=scale), randn(d, seed=seed + 1)
    residual = randn(m, d, seed=seed + 2) if add else None
    dtype = torch.float32 if wide else torch.bfloat16
    y, stream = rmsnorm_native.norm(native.library(), x, weight, 1e-5, residual, dtype)
    wanted, wanted_stream = rmsnorm.norm(x, weight, 1e-5, residual)
    close(y, wanted, 1e-5 if wide else BF16)
    close(stream, wanted_stream, 1e-6)


@EXAMPLES
@given(n=st.integers(1, 8), heads=st.integers(1, 5), half=st.integers(1, 70),
       start=st.integers(0, 3000), seed=st.integers(0, 99))
def test_rope_is_the_definition(n: int, heads: int, half: int, start: int, seed: int) -> None:
    x = randn(n, heads, 2 * half, seed=seed)
    positions = torch.arange(start, start + n)
    frequency = rope.frequencies(2 * half, 10000.0)
    close(rope_native.rotate(native.library(), x, positions, frequency),
          rope.rotate(x, positions, frequency), 1e-5, 2e-6)


@EXAMPLES
@given(count=st.integers(1, 700), scale=st.sampled_from((0.1, 3.0, 40.0, 300.0)), wide=st.booleans(),
       seed=st.integers(0, 99))
def test_swiglu_is_the_definition(count: int, scale: float, wide: bool, seed: int) -> None:
    gate, up = randn(count, seed=seed, scale=scale), randn(count, seed=seed + 1)
    got = swiglu_native.swiglu(native.library(), gate, up, torch.float32 if wide else torch.bfloat16)
    close(got, swiglu.swiglu(gate, up), 2e-6 if wide else BF16)


def test_a_rows_bits_do_not_depend_on_its_company() -> None:
    x, weight = randn(7, 96), randn(96, seed=1)
    whole, _ = rmsnorm_native.norm(native.library(), x, weight, 1e-6)
    alone = [rmsnorm_native.norm(native.library(), x[i:i + 1], weight, 1e-6)[0] for i in range(7)]
    assert torch.equal(whole, torch.cat(alone))


def test_infinities_stay() -> None:
    gate = torch.tensor([float("inf"), float("nan"), -1e30, 0.0] * 4)
    got = swiglu_native.swiglu(native.library(), gate, torch.ones(16), torch.float32)
    assert got[0] == float("inf")
    assert got[1].isnan()
    assert float(got[2].abs()) < 1e-6
    assert got[3] == 0.0
