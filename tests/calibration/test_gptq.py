"""The solver against its definition: identities that hold exactly, and brute force on tiny cases."""

from __future__ import annotations

import itertools

import pytest
import torch

from workbench.calibration import grids
from workbench.calibration.gptq import proxy_error, solve
from workbench.calibration.grid import Grid
from workbench.errors import ModelError, SettingsError


def inputs(tokens: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Correlated inputs with channels of different size."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=g, dtype=torch.float64) / columns**0.5
    mix += torch.eye(columns, dtype=torch.float64)
    scale = torch.exp(torch.randn(columns, generator=g, dtype=torch.float64))
    return torch.randn(tokens, columns, generator=g, dtype=torch.float64) @ mix * scale


def weight(rows: int, columns: int, seed: int = 1) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=g, dtype=torch.float64)


def damped(hessian: torch.Tensor, damp: float) -> torch.Tensor:
    return hessian + damp * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=hessian.dtype)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("act_order", [False, True])
def test_identity_hessian_gives_rounding_to_nearest(bits: int, act_order: bool) -> None:
    w = weight(16, 64)
    grid = Grid(bits, 32)
    found = solve(w, torch.eye(64, dtype=torch.float64), grid, act_order=act_order)
    q, pairs = grids.round_to_nearest(w, grid)
    assert torch.equal(found.q, q)
    assert torch.equal(found.pairs, pairs)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [0, 16, 32])
def test_result_does_not_depend_on_the_block(act_order: bool, group: int) -> None:
    w, x = weight(8, 96), inputs(400, 96)
    results = [solve(w, x.T @ x, Grid(3, group), act_order=act_order, block=block)
               for block in (1, 7, 32, 128)]
    for other in results[1:]:
        assert torch.equal(results[0].q, other.q)
        assert torch.equal(results[0].pairs, other.pairs)


@pytest.mark.parametrize("act_order", [False, True])
def test_error_is_the_output_error_under_the_damped_matrix(act_order: bool) -> None:
    w, x = weight(12, 64), inputs(300, 64)
    h = x.T @ x
    found = solve(w, h, Grid(4, 16), act_order=act_order)
    # the pairs are bfloat16 values throughout, so nothing is lost on the way out
    assert found.error == pytest.approx(
        proxy_error(w, found.q, found.pairs, 4, damped(h, found.damp)), rel=1e-9)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_error_below_rounding_and_falls_with_bits(bits: int) -> None:
    w, x = weight(32, 64), inputs(500, 64)
    h = x.T @ x
    ours = [proxy_error(w, r.q, r.pairs, b, h) for b in (bits, bits + 1)
            for r in [solve(w, h, Grid(b, 32))]]
    q, pairs = grids.round_to_nearest(w, Grid(bits, 32))
    assert ours[0] < 0.8 * proxy_error(w, q, pairs, bits, h)
    assert ours[1] < ours[0]


def test_last_column_decided_as_brute_force_decides() -> None:
    """With all columns but the last fixed, the last one's best level is found by trying all."""
    w, x = weight(6, 3), inputs(50, 3)
    h = x.T @ x
    grid = Grid(2, 0)
    found = solve(w, h, grid, act_order=False, damp=1e-9)
    for row in range(6):
        errors = []
        for level in range(4):
            q = found.q[row:row + 1].clone()
            q[0, 2] = level
            errors.append(proxy_error(w[row:row + 1], q, found.pairs[:, row:row + 1], 2, h))
        assert int(torch.tensor(errors).argmin()) == int(found.q[row, 2])


def test_near_the_optimum_of_all_roundings() -> None:
    """Greedy in one pass: between the optimum by brute force and round to nearest, nearer the first."""
    ours = best = nearest = 0.0
    for seed in range(8):
        w, x = weight(4, 5, seed), inputs(60, 5, seed + 50)
        h = x.T @ x
        grid = Grid(2, 0)
        found = solve(w, h, grid, act_order=True, damp=1e-6)
        q, pairs = grids.round_to_nearest(w, grid)
        every = torch.tensor(list(itertools.product(range(4), repeat=5)), dtype=torch.uint8)
        for row in range(4):
            delta = w[row] - grids.dequantize(every, pairs[:, row:row + 1].expand(-1, len(every), -1), 2,
                                              torch.float64)
            best += float(((delta @ h) * delta).sum(1).min())
        ours += proxy_error(w, found.q, found.pairs, 2, h)
        nearest += proxy_error(w, q, pairs, 2, h)
    assert best <= ours < nearest
    assert ours - best < 0.5 * (nearest - best)


def test_constant_diagonal_makes_act_order_a_no_op_for_whole_rows() -> None:
    x = inputs(400, 32)
    h = x.T @ x
    scale = h.diagonal().rsqrt()
    h = h * scale[:, None] * scale
    h.fill_diagonal_(1.0)
    w = weight(8, 32)
    a, b = (solve(w, h, Grid(4, 0), act_order=order) for order in (True, False))
    assert torch.equal(a.q, b.q)


def test_dead_inputs_get_zero_weight_and_no_say() -> None:
    w, x = weight(8, 32), inputs(200, 32)
    x[:, 5] = 0
    found = solve(w, x.T @ x, Grid(4, 16))
    assert found.dead == 1
    clean = w.clone()
    clean[:, 5] = 0
    assert torch.equal(found.q, solve(clean, x.T @ x, Grid(4, 16)).q)


def test_singular_statistics_are_damped_until_they_invert() -> None:
    """Fewer tokens than columns, and no damping asked for: it escalates from a tiny one."""
    w, x = weight(8, 64), inputs(10, 64)
    found = solve(w, x.T @ x, Grid(4, 32), damp=1e-17)
    assert found.damp > 1e-17
    assert torch.isfinite(found.pairs.float()).all()


def test_clipping_search_never_fits_worse() -> None:
    w = weight(64, 64)
    w[:, 0] *= 6  # an outlier per group
    for bits in (2, 3):
        errors = []
        for clip in (False, True):
            grid = Grid(bits, 64, clip=clip)
            q, pairs = grids.round_to_nearest(w, grid)
            error = (grids.dequantize(q, pairs, bits, torch.float64) - w).abs().pow(2.4).sum()
            errors.append(float(error))
        assert errors[1] < errors[0]


def test_bad_input_is_one_sentence() -> None:
    w, h = weight(4, 48), torch.eye(48, dtype=torch.float64)
    with pytest.raises(SettingsError, match="48 columns are not a multiple of the group of 32"):
        solve(w, h, Grid(4, 32))
    w[0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        solve(w, h, Grid(4, 16))
    with pytest.raises(ModelError, match="not finite"):
        solve(weight(4, 48), h * float("inf"), Grid(4, 16))


@pytest.mark.parametrize("act_order", [False, True])
def test_equals_optimal_brain_quantization_with_inverses_made_anew(act_order: bool) -> None:
    """The update from its definition (Frantar and Alistarh 2022, section 3): after each column the inverse
    of the remaining matrix is computed from scratch; no Cholesky factor, no blocks."""
    w, x, grid = weight(6, 24), inputs(200, 24), Grid(3, 8)
    h = damped(x.T @ x, 0.01)
    order = torch.argsort((x.T @ x).diagonal(), descending=True, stable=True) if act_order \
        else torch.arange(24)
    pairs = grids.fit_all(w, grid)
    rest, levels = w.clone(), torch.empty(6, 24, dtype=torch.uint8)
    for place, i in enumerate(order.tolist()):
        if not act_order and i % 8 == 0:
            pairs[i // 8] = grids.fit(rest[:, i:i + 8], grid)
        scale, offset = pairs[i // 8].unbind(1)
        level = grids.codes(rest[:, i], scale, offset, grid)
        remaining = order[place:]
        inverse = torch.linalg.inv(h[remaining][:, remaining])
        error = (rest[:, i] - grids.values(level, scale, offset, grid)) / inverse[0, 0]
        rest[:, remaining] -= error[:, None] * inverse[0]
        levels[:, i] = level.to(torch.uint8)
    found = solve(w, x.T @ x, grid, act_order=act_order)
    assert torch.equal(found.q, levels)
    assert torch.equal(found.pairs, pairs.to(torch.bfloat16))
