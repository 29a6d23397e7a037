"""4-bit groups: the grid, the packed layout, the CPU kernels against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels.w4a16_gemm import cost, cpu, launch, nibbles, reference

#: One bfloat16 rounding of the result is 2^-9 = 0.002; blocks round each weight once more.
TOLERANCE = 0.006
SHAPES = [(1, 63, 60, 32), (5, 60, 123, 64), (17, 123, 63, 128), (70, 128, 384, 64),
          (65, 16, 32, 32), (66, 200, 96, 32)]


def case(m: int, n: int, k: int, group: int, symmetric: bool = False, seed: int = 0):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, k, generator=generator) * 0.05 + 0.01
    x = torch.randn(m, k, generator=generator).bfloat16()
    return w, x, *reference.quantize(w, group, symmetric)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("m", "n", "k", "group"), SHAPES)
def test_fused_and_blocked_match_the_reference(relative_rms, m, n, k, group, symmetric) -> None:
    _, x, q, pairs = case(m, n, k, group, symmetric)
    expected, packed = reference.matmul(x, q, pairs, n), cpu.pack(q)
    padded = cpu.pad_columns(x, q.shape[1])
    for name, kernel in (("fused", cpu.fused), ("blocked", cpu.blocked)):
        got = kernel(padded, packed, pairs)[:, :n]
        assert relative_rms(f"{name} {m}x{n}x{k} g{group}", got, expected) < TOLERANCE
    assert relative_rms("launch", launch.matmul(x, packed, pairs)[:, :n], expected) < TOLERANCE


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 150), k=st.integers(1, 200), group=st.sampled_from([32, 64, 128]),
       symmetric=st.booleans(), seed=st.integers(0, 1000))
def test_packed_bytes_hold_exactly_the_quantized_numbers(n, k, group, symmetric, seed) -> None:
    w, _, q, pairs = case(1, n, k, group, symmetric, seed)
    packed = launch.pack(q, group)
    assert torch.equal(launch.dequantize(packed, pairs), reference.dequantize(q, pairs))
    assert packed.numel() + 2 * pairs.numel() == cost.weight_bytes(n, k, group)
    assert torch.equal(nibbles.unpack(nibbles.pack(q, group), group), q)
    assert q.max() < 16
    assert w.shape[0] <= q.shape[0]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_no_weight_is_further_than_its_grid_allows(group: int, symmetric: bool) -> None:
    w, _, q, pairs = case(1, 64, 256, group, symmetric)
    back = reference.dequantize(q, pairs)
    step = pairs[..., 0].float().T.repeat_interleave(group, 1)
    # Half a step, and one more part in 128 of the grid's extent for the rounded scale and offset.
    assert ((w - back).abs() <= 0.5 * step + 16 * step / 128 + 1e-6).all()


def test_smaller_groups_and_an_offset_are_more_accurate() -> None:
    w = torch.randn(256, 1024, generator=torch.Generator().manual_seed(1)) + 0.5

    def error(group: int, symmetric: bool) -> float:
        return float((reference.dequantize(*reference.quantize(w, group, symmetric)) - w).std())

    assert error(32, False) < error(64, False) < error(128, False) < error(128, True)


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_constant_rows_come_back(value: float) -> None:
    w = torch.full((16, 64), value)
    back = reference.dequantize(*reference.quantize(w, 64, False))
    assert torch.allclose(back, w, rtol=2**-7, atol=1e-6)


def test_padding_does_not_widen_the_last_group() -> None:
    """A short last group of large positive numbers is fitted to them, not down to the padded zeros."""
    w = torch.full((16, 40), 5.0) + torch.rand(16, 40, generator=torch.Generator().manual_seed(0)) / 10
    back = reference.dequantize(*reference.quantize(w, 32, False))[:, :40]
    assert (back - w).abs().max() < 0.04


def test_costs() -> None:
    assert cost.weight_bytes(128, 256, 64) == 128 * 256 // 2 + 128 * 4 * 4
    assert cost.bits_per_weight(64) == 4.5
    assert cost.flops(2, 3, 5) == 60
    assert cost.traffic_bytes(1, 16, 32, 32) == cost.weight_bytes(16, 32, 32) + 2 * 48


@pytest.mark.parametrize(("n", "k", "group"), [(63, 60, 32), (64, 64, 64), (200, 96, 32)])
def test_quantizing_some_rows_at_a_time_changes_nothing(monkeypatch, n, k, group) -> None:
    monkeypatch.setattr(launch, "QUANTIZE_ELEMENTS", 64 * k)
    w = torch.randn(n, k, generator=torch.Generator().manual_seed(0))
    kept = w.clone()
    packed, pairs = launch.quantize_and_pack(w, group, False)
    q, expected = reference.quantize(w, group, False)
    assert torch.equal(w, kept)
    assert torch.equal(pairs, expected)
    assert torch.equal(packed, launch.pack(q, group))


@pytest.mark.parametrize(("n", "k"), [(384, 384), (384, 1024), (128, 384), (63, 60)])
def test_a_row_has_the_same_bits_however_many_rows_there_are(n: int, k: int) -> None:
    """Speculation that is token-identical to plain decoding rests on this, up to the fused limit."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(n, k, generator=generator) * 0.02
    x = torch.randn(cpu.FUSED_ROWS, k, generator=generator).bfloat16()
    stored = launch.quantize_and_pack(w, 64, False)
    alone = torch.cat([launch.matmul(row[None], *stored) for row in x])
    for m in (2, 3, 5, 8, 13, cpu.FUSED_ROWS):
        assert torch.equal(launch.matmul(x[:m], *stored), alone[:m])
