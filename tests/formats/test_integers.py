"""Block floating point with sorted channels, bipolar products, Hadamard rotations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import SettingsError
from workbench.formats import bfp, bipolar, blocks, hadamard


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("mantissa", "block"), [(3, 16), (4, 16), (4, 64), (8, 32)])
def test_block_floating_point_is_the_papers_formula(mantissa: int, block: int) -> None:
    x = noise(32, 128)
    parts = x.view(32, -1, block)
    step = torch.exp2(torch.floor(torch.log2(parts.abs().amax(-1, keepdim=True))) - (mantissa - 2))
    top = 2 ** (mantissa - 1) - 1
    wanted = ((parts / step).round().clamp(-top, top) * step).view(32, 128)
    form = bfp.format_of(mantissa, block)
    assert torch.equal(blocks.fake(x, form), wanted)
    assert form.bits_per_weight(128) == mantissa + 8 / block


def rotary(x: torch.Tensor, order: torch.Tensor | None = None) -> torch.Tensor:
    """x [tokens, d]: pairs (i, i + d / 2) turned by angles that follow ``order``."""
    d = x.shape[-1]
    at = torch.arange(d // 2, dtype=torch.float64)
    if order is not None:
        at = at[order[:d // 2]]
    angle = torch.arange(x.shape[0], dtype=torch.float64)[:, None] * 100 ** (-2 * at / d)
    c, s = angle.cos(), angle.sin()
    a, b = x[:, :d // 2], x[:, d // 2:]
    return torch.cat((a * c - b * s, b * c + a * s), 1)


@pytest.mark.parametrize("mode", ["norm", "pair"])
def test_sorting_channels_leaves_scores_alone(mode: str) -> None:
    d, hidden = 32, 48
    wk, wq, x = noise(2 * d, hidden, seed=1), noise(4 * d, hidden, seed=2), noise(10, hidden, seed=3)
    order = bfp.sorted_order(wk.norm(dim=1), 2, mode)
    follow = bfp.query_order(order, 2, 4)
    turn = (lambda y, o: rotary(y, o)) if mode == "pair" else (lambda y, o: y)
    for head in range(4):
        k, q = head // 2, head
        plain = turn(x @ wq[q * d:(q + 1) * d].T, None) @ turn(x @ wk[k * d:(k + 1) * d].T, None).T
        own = order[k * d:(k + 1) * d] - k * d
        moved = turn(x @ wq[follow][q * d:(q + 1) * d].T, own) @ turn(
            x @ wk[order][k * d:(k + 1) * d].T, own).T
        torch.testing.assert_close(moved, plain, rtol=1e-12, atol=1e-10)


def key_error(sort: bool, block: int) -> float:
    """Squared error of keys with 6 % of channels ten times larger, stored in blocks."""
    keys, sizes = noise(256, 128, seed=4), torch.ones(128, dtype=torch.float64)
    sizes[torch.randperm(128, generator=torch.Generator().manual_seed(5))[:8]] = 10
    keys = keys * sizes
    keys = keys if not sort else keys[:, bfp.sorted_order(sizes, 1)]
    return float((blocks.fake(keys, bfp.format_of(4, block)) - keys).pow(2).sum())


@pytest.mark.parametrize(("block", "gain"), [(16, 1.8), (32, 1.7), (64, 1.4)])
def test_sorting_outlier_channels_together_lowers_the_error(block: int, gain: float) -> None:
    assert key_error(False, block) / key_error(True, block) == pytest.approx(gain, rel=0.2)


def test_a_block_as_wide_as_the_head_gains_nothing_from_sorting() -> None:
    assert key_error(False, 128) == pytest.approx(key_error(True, 128), rel=1e-12)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 150), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_one_bit_products_make_the_integer_product_exactly(bw: int, bx: int, k: int, seed: int) -> None:
    make = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 1 << bx, (3, k), dtype=torch.uint8, generator=make)
    w = torch.randint(0, 1 << bw, (5, k), dtype=torch.uint8, generator=make)
    got = bipolar.matmul(bipolar.planes(x, bx), bipolar.planes(w, bw), k)
    assert torch.equal(got, bipolar.values(x, bx) @ bipolar.values(w, bw).T)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_signed_integers_become_bipolar_without_loss(bits: int) -> None:
    q = torch.arange(-(1 << (bits - 1)), 1 << (bits - 1))
    codes = bipolar.from_signed(q, bits)
    assert torch.equal(bipolar.values(codes, bits), 2 * q + 1)
    assert set(bipolar.values(codes, bits).tolist()) == set(range(-(2**bits - 1), 2**bits, 2))


@pytest.mark.parametrize("seed", [None, 7])
def test_rotating_both_operands_leaves_the_product(seed: int | None) -> None:
    x, w = noise(6, 64), noise(9, 64, seed=1)
    turned = hadamard.rotate(x, 16, seed) @ hadamard.rotate(w, 16, seed).T
    torch.testing.assert_close(turned, x @ w.T, rtol=1e-12, atol=1e-12)


def test_a_rotation_spreads_an_outlier() -> None:
    x = torch.zeros(1, 32)
    x[0, 5] = 32.0
    assert float(hadamard.rotate(x, 32, 1).abs().max()) == pytest.approx(32 / 32 ** 0.5)


@pytest.mark.parametrize(("call", "says"), [
    (lambda: bfp.format_of(1, 16), "mantissas"), (lambda: bfp.sorted_order(torch.ones(6), 2, "pair"), "even"),
    (lambda: bfp.sorted_order(torch.ones(6), 2, "size"), "norm or in pairs"),
    (lambda: hadamard.rotate(torch.ones(2, 24), 16), "divides"), (lambda: hadamard.matrix(12), "power"),
    (lambda: bipolar.planes(torch.zeros(1, 8, dtype=torch.uint8), 9), "1 to 8"),
])
def test_bad_input_is_one_sentence(call, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SettingsError, match=says):
        call()
