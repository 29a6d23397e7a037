"""Unstructured pruning: exact counts, nothing moved at sparsity 0, and errors that are made up for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.calibration.gptq import output_square
from workbench.errors import ModelError
from workbench.structure import masks, sparsegpt


def layer(rows: int = 40, columns: int = 96, tokens: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and the second moments of correlated inputs."""
    torch.manual_seed(1)
    x = torch.randn(tokens, columns) @ (torch.randn(columns, columns) / 6 + torch.eye(columns))
    return torch.randn(rows, columns), (x.T @ x).double()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), k=st.integers(1, 40), sparsity=st.floats(0, 1))
def test_exactly_as_many_stay_as_counted_even_with_ties(n: int, k: int, sparsity: float) -> None:
    kept = masks.magnitude(torch.ones(n, k), sparsity)
    assert int(kept.sum()) == masks.kept_count(n * k, sparsity)


@pytest.mark.parametrize("sparsity", [0.3, 0.7, 0.905])
@pytest.mark.parametrize("block", [16, 37, 128])
def test_counts_add_up_over_blocks(sparsity: float, block: int) -> None:
    weight, hessian = layer()
    found = sparsegpt.prune(weight, hessian, sparsity, block=block)
    assert int(found.kept.sum()) == masks.kept_count(weight.numel(), sparsity)
    assert not found.weight[~found.kept].any()
    assert found.error == pytest.approx(output_square(weight - found.weight, hessian))


def test_sparsity_zero_is_the_identity() -> None:
    weight, hessian = layer()
    found = sparsegpt.prune(weight, hessian, 0.0)
    assert torch.allclose(found.weight, weight, atol=1e-5)
    assert found.error < 1e-6 * output_square(weight, hessian)


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_better_than_magnitude_and_than_its_own_mask_alone(sparsity: float) -> None:
    weight, hessian = layer()
    found = sparsegpt.prune(weight, hessian, sparsity)
    plain = masks.magnitude(weight, sparsity)
    by_size = output_square(weight.masked_fill(plain, 0), hessian)
    mask_alone = output_square(weight.masked_fill(found.kept, 0), hessian)
    passes_alone = sparsegpt.prune(weight, hessian, sparsity, refit=False)
    assert passes_alone.error < 0.9 * min(by_size, mask_alone)
    assert torch.equal(passes_alone.kept, found.kept)
    assert found.error < 0.9 * passes_alone.error  # the same mask, least squares values


def test_the_refit_has_no_gradient_left() -> None:
    weight, hessian = layer()
    found = sparsegpt.prune(weight, hessian, 0.6, damp=1e-9)
    gradient = ((found.weight - weight).double() @ hessian)[found.kept]
    assert float(gradient.abs().max()) < 1e-3 * float((weight.double() @ hessian).abs().mean())


def test_one_weight_out_is_the_optimal_brain_surgeon() -> None:
    """Removing the first column alone leaves the least squares answer of the others."""
    weight, hessian = layer(rows=3, columns=8)
    kept = torch.ones(3, 8, dtype=torch.bool)
    kept[:, 0] = False
    shift = torch.linalg.solve(hessian[1:, 1:], hessian[1:, :1]) @ weight[:, :1].T.double()
    for refit in (False, True):
        found = sparsegpt.prune(weight, hessian, 0.0, damp=1e-9, kept=kept, refit=refit)
        assert torch.allclose(found.weight[:, 1:].double(), weight[:, 1:].double() + shift.T, atol=1e-5)


def test_not_finite_is_one_sentence() -> None:
    weight, hessian = layer()
    weight[3, 3] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        sparsegpt.prune(weight, hessian, 0.5)
    with pytest.raises(ModelError, match="NaN"):
        masks.magnitude(weight, 0.5)
