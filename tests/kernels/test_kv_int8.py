"""Int8 keys and values: rounding bounds, blocked attention against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels.kv_int8 import cost, cpu, launch, reference


@settings(max_examples=30, deadline=None)
@given(d=st.integers(1, 130), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_error_is_at_most_half_a_step(d: int, scale: float, seed: int) -> None:
    x = torch.randn(2, 3, 5, d, generator=torch.Generator().manual_seed(seed)) * scale
    q, s = reference.quantize(x)
    assert ((x - reference.dequantize(q, s)).abs() <= s.float() * 0.51 + 1e-12).all()


@pytest.mark.parametrize(("b", "heads", "kv", "n", "length", "d", "e"), [
    (1, 6, 2, 1, 63, 64, 64), (2, 4, 4, 3, 123, 60, 60), (1, 8, 2, 5, 1500, 16, 24),
    (1, 2, 1, 4, 4, 8, 8), (1, 3, 3, 1030, 1030, 16, 16)])
def test_blocked_attention_matches_the_reference(relative_rms, b, heads, kv, n, length, d, e) -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(b, kv, length + 7, w, generator=generator) for w in (d, e))
    query = torch.randn(b, heads, n, d, generator=generator).bfloat16()
    stored = [t[:, :, :length] for x in (keys, values) for t in reference.quantize(x)]
    expected = reference.attend(query, *stored)
    assert relative_rms("blocks", cpu.attend(query, *stored), expected) < 0.01
    assert relative_rms("launch", launch.attend(query, *stored, d**-0.5), expected) < 0.01


def test_the_definition_is_the_runtimes() -> None:
    """The cache of the runtime and the kernels mean the same bytes."""
    from workbench.runtime import cache_int8

    x = torch.randn(2, 3, 5, 64)
    for mine, theirs in zip(reference.quantize(x), cache_int8.quantize(x), strict=True):
        assert torch.equal(mine, theirs)


def test_costs() -> None:
    assert cost.token_bytes(2, 64, 64) == 2 * (64 + 64 + 4)
    assert cost.attend_bytes(1, 4, 2, 10, 64, 64) == 10 * cost.token_bytes(2, 64, 64) + 2 * 4 * 128
    assert cost.attend_flops(1, 4, 10, 64, 64) == 2 * 4 * 10 * 128
