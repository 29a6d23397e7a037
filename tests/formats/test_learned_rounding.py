"""Small floats with searched ranges, rounding that is learned, and a diffusion model's samples under both."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from workbench.errors import Cancelled, SettingsError
from workbench.formats import elements, learned_rounding
from workbench.formats.learned_rounding import Grid, grid_of, learn, quantize, search
from workbench.gallery import _diffusion_points as diffusion


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("exponent", "mantissa"), [(2, 1), (2, 3), (3, 2)])
def test_the_grid_is_the_minifloat_of_the_same_range(exponent: int, mantissa: int) -> None:
    element = elements.minifloat(exponent, mantissa)
    grid = grid_of(exponent, mantissa, element.largest)
    assert grid.largest == pytest.approx(element.largest)
    x = draw(5000) * element.largest / 2
    assert torch.equal(grid.round(x), elements.to_nearest(x, element))


def test_no_exponent_is_integers() -> None:
    grid = grid_of(0, 3, 7.0)
    assert torch.equal(grid.round(torch.tensor([-9.0, -2.6, 0.4, 3.5, 6.9])),
                       torch.tensor([-7.0, -3.0, 0.0, 4.0, 7.0]))


def test_the_search_finds_the_split_and_the_range() -> None:
    flat, tailed = torch.linspace(-1, 1, 4000), torch.exp(3 * draw(4000)) * draw(4000, seed=1).sign()
    assert search(flat, 4).exponent <= search(tailed, 4).exponent
    x = draw(4000)
    grid = search(x, 4)
    best = float((grid.round(x) - x).square().sum())
    for share in (0.5, 1.0):
        other = grid_of(grid.exponent, grid.mantissa, share * float(x.abs().max()))
        assert best <= float((other.round(x) - x).square().sum()) * 1.0001


@pytest.mark.parametrize("layer", [nn.Linear(24, 16), nn.Conv2d(4, 6, 3, padding=1)])
def test_learned_rounding_is_on_the_grid_and_never_worse(layer: nn.Module) -> None:
    layer.weight.data = 0.2 * draw(*layer.weight.shape, seed=9)
    mixing = draw(24, 24, seed=2) if isinstance(layer, nn.Linear) else None
    x = draw(256, 6) @ draw(6, 24, seed=3) @ mixing if mixing is not None else draw(32, 4, 6, 6)
    grid = search(layer.weight.detach(), 4)
    w = learn(layer, x, grid, steps=300)
    torch.testing.assert_close(grid.round(w), w, rtol=1e-6, atol=1e-7)

    def error(weight: torch.Tensor) -> float:
        return float((learned_rounding._apply(layer, x, weight)
                      - learned_rounding._apply(layer, x, layer.weight.detach())).square().sum())
    nearest = error(grid.round(layer.weight.detach()))
    assert error(w) <= nearest
    if mixing is not None:  # inputs of six directions: much can be confused
        assert error(w) < 0.8 * nearest


@pytest.fixture(scope="module")
def model() -> diffusion.Denoiser:
    return diffusion.train(steps=700)


def away(model: nn.Module, **options: object) -> float:
    """Mean distance of a quantized copy's samples from the float model's, from the same noise."""
    mine = copy.deepcopy(model)
    noise = diffusion.start(192, 5)
    quantize(mine, lambda m: diffusion.sample(m, diffusion.start(96, 4), 5), **options)  # type: ignore[arg-type]
    return float((diffusion.sample(mine, noise) - diffusion.sample(model, noise)).norm(dim=1).mean())


def test_the_float_model_draws_its_clusters(model: diffusion.Denoiser) -> None:
    drawn = diffusion.sample(model, diffusion.start(256, 6))
    assert float((drawn.norm(dim=1) - 1.4).abs().median()) < 0.25


def test_eight_bits_are_close_and_learned_rounding_beats_nearest_at_four(model: diffusion.Denoiser) -> None:
    eight = away(model, weight_bits=8, learned=False)
    nearest = away(model, weight_bits=4, learned=False)
    learned = away(model, weight_bits=4, learned=True, steps=400)
    print(f"W8A8 {eight:.3f}, FP4 nearest {nearest:.3f}, FP4 learned {learned:.3f}")
    assert eight < 0.5 * nearest
    assert learned < 0.95 * nearest


def test_bad_input_is_one_sentence(model: diffusion.Denoiser) -> None:
    with pytest.raises(SettingsError, match="4, 6 or 8"):
        search(draw(10), 5)
    with pytest.raises(SettingsError, match="no linear"):
        quantize(nn.ReLU(), lambda m: None)
    with pytest.raises(SettingsError, match="never reach"):
        quantize(copy.deepcopy(model), lambda m: None)
    with pytest.raises(SettingsError, match="Embedding"):
        learn(nn.Embedding(2, 2), draw(2, 2), Grid(2, 1, 0.0))
    with pytest.raises(Cancelled):
        learn(nn.Linear(4, 4), draw(8, 4), Grid(2, 1, 0.0), cancelled=lambda: True)
