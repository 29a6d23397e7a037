"""Puzzle on a toy: variants are fitted, scored alone, chosen exactly, and assembled for real."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.errors import Cancelled, SettingsError
from workbench.structure import checkpoint, judging, library, puzzle
from workbench.structure.choosing import brute_force


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=60, hidden_size=24, intermediate_size=48, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True)
    config._attn_implementation = "sdpa"
    model = LlamaForCausalLM(config).float().eval().requires_grad_(False)
    model.get_input_embeddings().weight.mul_(10)
    for p in model.model.layers.parameters():  # blocks that matter
        if p.ndim == 2:
            p.mul_(8)
    model.model.layers[1].mlp.down_proj.weight.zero_()  # a block without effect
    tokens = torch.randint(0, 60, (12, 24))
    return model, tokens, puzzle.build_library(model, tokens, tokens[:4], context=16)


def test_variants_fit_better_the_more_they_may(toy) -> None:
    _, _, found = toy
    for place in (found.variants[1], found.variants[5]):
        widths = [v.error for v in place if isinstance(v.plan, int)]
        assert widths == sorted(widths)
        assert widths[0] == 0
        assert all(0 <= v.error <= 1 for v in place)


def test_replacing_a_block_that_does_nothing_costs_nothing(toy) -> None:
    _, _, found = toy
    assert all(c.score == pytest.approx(0, abs=1e-6) for c in found.choices[3])
    assert all(c.score > 1e-5 for c in found.choices[1][1:])


def test_full_budget_is_the_parent(toy) -> None:
    model, tokens, found = toy
    built = puzzle.assemble(found, puzzle.search(found), tokens[:4])
    assert built.predicted <= 1e-6
    with torch.no_grad():
        assert torch.allclose(built.model(tokens).logits, model(tokens).logits, atol=1e-3)
    assert built.kl == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("memory", [0.8, 0.5])
def test_the_choice_is_optimal_and_the_model_really_smaller(toy, memory: float) -> None:
    model, tokens, found = toy
    solution = puzzle.search(found, memory, 10.0)
    full = found.full()
    best = brute_force(found.choices, {"bytes": memory * full["bytes"]})
    assert best is not None
    assert solution.score == pytest.approx(best.score, abs=1e-7)
    built = puzzle.assemble(found, solution, tokens[:4])
    blocks = sum(p.numel() for p in built.model.model.layers.parameters()) * 2
    parent = sum(p.numel() for p in model.model.layers.parameters()) * 2
    assert blocks < parent
    again = judging.judge(built.model, tokens[:4], model).kl
    assert again == pytest.approx(built.kl)


def test_one_replacement_is_scored_as_the_assembled_model_has_it(toy) -> None:
    """A solution that changes a single block has exactly its score."""
    _, tokens, found = toy
    for place, pick in ((1, 2), (4, 2), (0, 1)):
        picks = [0] * len(found.choices)
        picks[place] = pick
        solution = puzzle.Solution(tuple(picks), found.choices[place][pick].score, {})
        assert puzzle.assemble(found, solution, tokens[:4]).kl == pytest.approx(solution.score, abs=1e-6)


def test_an_assembled_folder_opens_and_drops_the_keys_of_what_is_gone(toy, tmp_path) -> None:
    import json
    import shutil

    from workbench import zoo
    from workbench.runtime import load
    from workbench.settings import Settings

    model, folder = checkpoint.read("wb-1m")
    plan = [{"attention": "none", "ffn": 64}, {"attention": "full", "ffn": "none"}]
    made = puzzle.as_structured(model, plan)
    with torch.no_grad():
        made.model.layers[0].mlp.gate_proj.weight.copy_(model.model.layers[0].mlp.gate_proj.weight[:64])
        made.model.layers[0].mlp.up_proj.weight.copy_(model.model.layers[0].mlp.up_proj.weight[:64])
        made.model.layers[0].mlp.down_proj.weight.copy_(model.model.layers[0].mlp.down_proj.weight[:, :64])
    expected = made.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=False)[0, 3:].tolist()
    out = checkpoint.write(made, folder, tmp_path / "m", {}, dtype=None)
    assert json.loads((out / "config.json").read_text())["layer_plan"] == plan
    settings = Settings().with_({"model": str(out), "weights": "fp32", "compute.threads": 1,
                                 "limits.max_new_tokens": 8})
    loaded = load(settings, lambda event: None, lambda: False)
    try:
        text = loaded.tokenizer.decode([5, 6, 7])
        whole = loaded.forward.model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8,
                                              do_sample=False)[0, 3:].tolist()
        out_ = loaded.generate([text], settings, lambda event: None, lambda: False)
        assert len(out_.tokens[0]) == 8
    finally:
        loaded.close()
    assert whole == expected
    assert zoo.path("wb-1m").is_dir()
    shutil.rmtree(out)


def test_too_little_text_too_small_budgets_and_cancel(toy) -> None:
    model, tokens, found = toy
    with pytest.raises(SettingsError, match="too few"):
        library.least_squares(torch.randn(5, 24), torch.randn(5, 24))
    with pytest.raises(SettingsError, match="cannot be kept"):
        puzzle.search(found, -0.1)
    with pytest.raises(Cancelled):
        puzzle.build_library(copy.deepcopy(model), tokens, tokens[:2], cancelled=lambda: True)
