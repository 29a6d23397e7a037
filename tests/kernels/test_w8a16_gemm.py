"""Int8 per output row: the CPU kernels against the float64 reference, at odd shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels.w8a16_gemm import cost, cpu, launch, reference

TOLERANCE = 0.005  # one bfloat16 rounding of the result, one of the accumulated block


@pytest.mark.parametrize(("m", "n", "k"), [(1, 63, 60), (5, 60, 123), (17, 123, 63), (60, 384, 128),
                                           (3, 1, 1), (16, 7, 17)])
def test_fused_and_blocked_match_the_reference(relative_rms, m: int, n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(n, k, generator=generator), torch.randn(m, k, generator=generator).bfloat16()
    q, scale = reference.quantize(w)
    expected, packed = reference.matmul(x, q, scale), launch.pack(q)
    padded = torch.nn.functional.pad(x, (0, packed.shape[1] - k))
    for name, kernel in (("fused", cpu.fused), ("blocked", cpu.blocked)):
        got = kernel(padded, packed, scale)
        assert relative_rms(f"{name} {m}x{n}x{k}", got, expected) < TOLERANCE
    assert relative_rms("launch", launch.matmul(x, packed, scale), expected) < TOLERANCE


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 80), k=st.integers(1, 130), scale=st.floats(1e-4, 1e3), seed=st.integers(0, 99))
def test_error_is_at_most_half_a_step(n: int, k: int, scale: float, seed: int) -> None:
    w = torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * scale
    q, s = reference.quantize(w)
    error = (w - reference.dequantize(q, s)).abs()
    # The largest weight of a row may be cut by the rounding of its scale: 127 / 256 of a step.
    assert (error <= s.float()[:, None] * 0.51 + 1e-12).all()
    for native in (False, True):
        packed, scales = launch.quantize_and_pack(w, native)
        assert packed.numel() + 2 * scales.numel() == cost.weight_bytes(n, k)


def test_zero_rows_stay_zero() -> None:
    q, s = reference.quantize(torch.zeros(3, 8))
    assert not reference.dequantize(q, s).any()
    assert torch.isfinite(s).all()


def test_costs() -> None:
    assert cost.weight_bytes(10, 64) == 16 * 64 + 32
    assert cost.weight_bytes(16, 65) == 16 * 128 + 32
    assert cost.flops(2, 3, 5) == 60


@pytest.mark.parametrize(("n", "k"), [(384, 384), (384, 1024), (128, 384), (63, 60)])
def test_a_row_has_the_same_bits_however_many_rows_there_are(n: int, k: int) -> None:
    """Speculation that is token-identical to plain decoding rests on this, up to the fused limit."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(n, k, generator=generator) * 0.02
    x = torch.randn(cpu.FUSED_ROWS, k, generator=generator).bfloat16()
    stored = launch.quantize_and_pack(w)
    alone = torch.cat([launch.matmul(row[None], *stored) for row in x])
    assert alone.shape == (cpu.FUSED_ROWS, -(-n // 16) * 16)
    for m in (2, 3, 5, 8, 13, cpu.FUSED_ROWS):
        assert torch.equal(launch.matmul(x[:m], *stored), alone[:m])
