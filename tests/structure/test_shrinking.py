"""Width and depth pruning and recovery: permutations change nothing, sizes are as predicted, losses fall."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.errors import Cancelled, SettingsError
from workbench.structure import importance, recovery, shrinking
from workbench.structure.shrinking import Target


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=90, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True)
    model = LlamaForCausalLM(config).float().eval()
    tokens = torch.randint(0, 90, (12, 24))
    return model, tokens, importance.measure(model, tokens)


def test_full_size_is_the_same_function(toy) -> None:
    model, tokens, found = toy
    kept = shrinking.choose(model.config, found, Target())
    made = shrinking.shrink(model, kept)
    with torch.no_grad():
        assert torch.allclose(made(tokens).logits, model(tokens).logits, atol=1e-5)
        assert float(recovery.divergence(made(tokens).logits, model(tokens).logits)) < 1e-9


def test_sizes_are_as_asked_and_dead_parts_go_first(toy) -> None:
    model, tokens, _ = toy
    dead = copy.deepcopy(model)
    with torch.no_grad():  # neurons 3..34, the first query head of each group, layer 2: without effect
        for layer in dead.model.layers:
            layer.mlp.down_proj.weight[:, 3:35] = 0
            layer.mlp.up_proj.weight[3:35] = 0
        dead.model.layers[2].mlp.down_proj.weight.zero_()
        dead.model.layers[2].self_attn.o_proj.weight.zero_()
    found = importance.measure(dead, tokens)
    kept = shrinking.choose(dead.config, found, Target(layers=3, ffn=32))
    assert kept.layers == (0, 1, 3)
    made = shrinking.shrink(dead, kept)
    assert made.config.intermediate_size == 32
    assert made.config.num_hidden_layers == 3
    with torch.no_grad():
        assert torch.allclose(made(tokens).logits, dead(tokens).logits, atol=1e-5)


def test_heads_go_evenly_from_each_group_and_channels_everywhere(toy) -> None:
    model, tokens, found = toy
    kept = shrinking.choose(model.config, found, Target(heads=2, hidden=24))
    assert all((0 <= h[0] < 2) and (2 <= h[1] < 4) for h in (k.tolist() for k in kept.heads))
    made = shrinking.shrink(model, kept)
    assert made.get_input_embeddings().weight.shape == (90, 24)
    assert made.model.layers[0].self_attn.q_proj.weight.shape == (16, 24)
    assert made(tokens).logits.isfinite().all()


def test_the_last_layers_importance_is_not_that_of_the_norm(toy) -> None:
    model, tokens, _ = toy
    dead = copy.deepcopy(model)
    with torch.no_grad():
        dead.model.layers[3].mlp.down_proj.weight.zero_()
        dead.model.layers[3].self_attn.o_proj.weight.zero_()
        dead.model.norm.weight.uniform_(-3, 3)
    assert float(importance.measure(dead, tokens).layers[3]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("target", "said"), [
    (Target(layers=5), "depth 5"), (Target(ffn=60), "ffn 60"), (Target(heads=3), "heads 3"),
    (Target(hidden=0), "hidden 0")])
def test_impossible_sizes_are_one_sentence(toy, target: Target, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        shrinking.choose(toy[0].config, toy[2], target)


@pytest.mark.parametrize("losses", [{"kl": 1.0}, {"kl": 0.0, "ce": 1.0, "square": 1.0}])
def test_recovery_lowers_the_divergence_and_masks_hold(toy, losses) -> None:
    model, tokens, found = toy
    sharp = copy.deepcopy(model)
    with torch.no_grad():  # a teacher with something to teach
        sharp.get_input_embeddings().weight.mul_(20)
    kept = shrinking.choose(sharp.config, found, Target(ffn=32))
    student = shrinking.shrink(sharp, kept)
    name = "model.layers.0.mlp.up_proj.weight"
    mask = torch.rand(32, 32) < 0.5
    with torch.no_grad():
        student.get_parameter(name).masked_fill_(~mask, 0)
    before = student.get_parameter(name).clone()
    recipe = recovery.Recovery(steps=30, batch=4, rate=3e-3, **losses)
    seen = recovery.recover(student, sharp, tokens, recipe, {name: mask})
    after = student.get_parameter(name)
    assert sum(seen[-5:]) < 0.9 * sum(seen[:5])
    assert not after[~mask].any()
    assert not torch.equal(after[mask], before[mask])


def test_square_head_is_zero_for_equals_and_free_of_scale() -> None:
    a, b = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    assert float(recovery.square_head([a], [a])) == 0
    assert float(recovery.square_head([a * 7], [b * 7])) == pytest.approx(
        float(recovery.square_head([a], [b])), rel=1e-5)


def test_cancel_and_bad_recipes(toy) -> None:
    model, tokens, _ = toy
    with pytest.raises(Cancelled):
        recovery.recover(copy.deepcopy(model), model, tokens, recovery.Recovery(), cancelled=lambda: True)
    with pytest.raises(SettingsError, match="loss"):
        recovery.Recovery(kl=0)
    with pytest.raises(SettingsError, match="no parameter"):
        recovery.recover(copy.deepcopy(model), model, tokens, recovery.Recovery(steps=1),
                         {"nothing": torch.ones(1)})
