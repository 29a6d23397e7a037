"""Block pruning: one slope beats the same share everywhere, power falls, what is pruned is not computed."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from workbench import gallery
from workbench.errors import SettingsError
from workbench.structure import blocks


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    module, _ = gallery.make("vision_transformer", batch=2)
    module.eval()
    with torch.no_grad():  # layers that matter differently, as in a trained model
        for i, block in enumerate(module.blocks):
            block.mlp[2].weight.mul_(0.1 + i)
    batches = [torch.randn(4, 3, 32, 32) for _ in range(4)]
    return module, batches, blocks.curves(module, batches, 16)


def cost(layers, picks) -> tuple[float, float]:
    return (sum(float(c.distortion[i]) for c, i in zip(layers, picks, strict=True)),
            sum(float(c.work[i]) for c, i in zip(layers, picks, strict=True)))


@pytest.mark.parametrize("target", [0.8, 0.5, 0.3])
def test_one_slope_meets_the_target_and_beats_the_same_share(vit, target: float) -> None:
    _, _, layers = vit
    whole = sum(float(c.work[0]) for c in layers)
    chosen, plain = blocks.allocate(layers, target), blocks.uniform(layers, target)
    assert cost(layers, chosen)[1] <= target * whole * (1 + 1e-9)
    assert cost(layers, chosen)[0] < cost(layers, plain)[0]


def test_the_slope_is_optimal_for_the_work_that_it_leaves(vit) -> None:
    """No other choice of levels with as little work has less distortion (everything tried, three layers)."""
    layers = [blocks.Curve(c.name, c.counts[::20], c.distortion[::20], c.work[::20], c.power[::20], c.order,
                           c.grid) for c in vit[2][:3]]
    picks = blocks.allocate(layers, 0.5)
    distortion, work = cost(layers, picks)
    for tried in itertools.product(*(range(len(c.counts)) for c in layers)):
        d, w = cost(layers, tried)
        assert w > work * (1 + 1e-9) or d >= distortion - 1e-12


def test_power_falls_with_sparsity_and_dear_layers_give_more(vit) -> None:
    module, batches, layers = vit
    assert all((c.power.diff() < 0).all() for c in layers)
    dear = layers[0].name
    priced = blocks.curves(module, batches, 16, {dear: 50.0})
    plain = blocks.allocate(priced, 0.6, power=0.0)
    heavy = blocks.allocate(priced, 0.6, power=0.05)
    assert heavy[0] > plain[0]
    assert sum(float(c.power[i]) for c, i in zip(priced, heavy, strict=True)) < \
        sum(float(c.power[i]) for c, i in zip(priced, plain, strict=True))


def test_what_is_applied_is_the_masked_model_with_fewer_weights(vit) -> None:
    module, batches, layers = vit
    picks = blocks.allocate(layers, 0.5)
    masked, applied = copy.deepcopy(module), copy.deepcopy(module)
    with torch.no_grad():
        for curve, level in zip(layers, picks, strict=True):
            mask = blocks.kept_blocks(curve, level).repeat_interleave(16, 0).repeat_interleave(16, 1)
            masked.get_submodule(curve.name).weight.mul_(mask)
    blocks.apply(applied, layers, picks)
    with torch.no_grad():
        assert torch.allclose(applied(batches[0]), masked(batches[0]), atol=1e-4)
        unchanged = module(batches[0])
    kept = sum(p.numel() for p in applied.parameters()) / sum(p.numel() for p in module.parameters())
    assert kept < 0.65
    assert not torch.equal(unchanged, masked(batches[0]))


def test_bad_input_is_one_sentence(vit) -> None:
    module, batches, layers = vit
    with pytest.raises(SettingsError, match="smaller blocks"):
        blocks.curves(module, batches, 7)
    with pytest.raises(SettingsError, match="at least one batch"):
        blocks.curves(module, [], 16)
    with pytest.raises(SettingsError, match="share of the work"):
        blocks.allocate(layers, 1.5)
    assert all(not p.requires_grad or p.grad is None for p in module.parameters())
