"""EasySpec: exact where nothing runs side by side, corrected caches, and a text that never changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workbench.errors import SettingsError
from workbench.techniques.decoding._fuzzy import FuzzyForward, grouped, lean_of
from workbench.techniques.decoding.easyspec import EasySpec, FuzzyDrafter


@pytest.mark.parametrize(("layers", "size", "edges", "wanted"), [
    (8, 4, 1, [[0], [1, 2, 3, 4], [5, 6], [7]]), (2, 4, 1, [[0], [1]]), (2, 2, 0, [[0, 1]]),
    (3, 1, 0, [[0], [1], [2]]), (4, 9, 8, [[0], [1], [2], [3]]), (5, 2, 2, [[0], [1], [2], [3], [4]])])
def test_layers_are_grouped_between_the_edges(layers: int, size: int, edges: int,
                                              wanted: list[list[int]]) -> None:
    assert grouped(layers, size, edges) == wanted


@pytest.fixture(scope="module")
def deep(write_config: Any, settings: Any) -> Any:
    """A target of six layers with a small spread, so that neighbours' inputs are alike."""
    from workbench.runtime import load

    path = write_config(num_hidden_layers=6, initializer_range=0.08)
    return load(settings.with_({"model.source": str(path), "limits.stop_at_eos": False}), lambda event: None)


def drafter(model: Any, **controls: Any) -> FuzzyDrafter:
    from workbench.runtime.guard import Guard
    from workbench.runtime.model import Runtime
    from workbench.runtime.sampling import Sampler

    choice = EasySpec(**controls)
    settings = model.settings.with_({"decoding": choice})
    return FuzzyDrafter(choice, Runtime(model, settings, Sampler(), 200, Guard(lambda: False), print))


def exact(model: Any, tokens: list[int]) -> tuple[torch.Tensor, Any]:
    """Logits [V] after the tokens and the cache of a fresh prefill."""
    cache = model.cache(model.settings, 1, len(tokens))
    masks = model.forward.masks([0], len(tokens))
    ids = torch.tensor([tokens, list(range(len(tokens)))])
    logits = model.forward(ids[:1], ids[1:], masks.rows(0, len(tokens)), cache, 1)
    return logits[0, -1].clone(), cache


TEXT = [5, 99, 7, 120, 33, 5, 8, 201, 14, 77]


def fuzzy_logits(model: Any, size: int, edges: int = 0) -> torch.Tensor:
    """After TEXT and three further tokens, of which the last three went through the fuzzy forward."""
    with torch.inference_mode():
        one = drafter(model, group=size, edges=edges)
        one._catch_up(TEXT)
        for token in (11, 12, 13):
            logits = one._fuzzy(torch.tensor([token]), one.cache)
        return logits


def test_groups_of_one_are_the_exact_draft(deep: Any) -> None:
    with torch.inference_mode():
        wanted, _ = exact(deep, [*TEXT, 11, 12, 13])
    assert torch.allclose(fuzzy_logits(deep, 1), wanted, atol=2e-4)
    assert torch.allclose(fuzzy_logits(deep, 4, edges=8), wanted, atol=2e-4)


def test_layers_side_by_side_are_what_the_paper_says(deep: Any) -> None:
    """Against the same layers called one by one: every attention of the group reads the group's input."""
    model, groups = deep.loaded.model.model, grouped(6, 4, 1)
    tokens = torch.tensor([TEXT])
    with torch.inference_mode():
        x = model.embed_tokens(tokens)
        angles = model.rotary_emb(x, torch.arange(len(TEXT))[None])
        order = torch.full((len(TEXT), len(TEXT)), float("-inf")).triu(1)[None, None]
        for group in groups:
            entered = x
            for layer in (model.layers[i] for i in group):
                added, _ = layer.self_attn(layer.input_layernorm(entered), position_embeddings=angles,
                                           attention_mask=order.repeat(1, 1, deep.forward.groups, 1))
                x = x + added
                x = x + layer.mlp(layer.post_attention_layernorm(x))
        wanted = deep.loaded.model.lm_head(model.norm(x))[0, -1]
        lean = lean_of(deep.forward, "self")
        fuzzy = FuzzyForward(lean, groups)
        cache = fuzzy.cache(32)
        for token in TEXT:
            found = fuzzy(torch.tensor([token]), cache)
    assert torch.allclose(found, wanted, atol=2e-4)
    assert not torch.allclose(found, exact(deep, TEXT)[0], atol=1e-2)


def caches_after(model: Any, calibrate: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys of the second layer after three kept chains and one more look, beside those of a prefill."""
    with torch.inference_mode():
        one = drafter(model, group=4, edges=0, gamma=4, calibrate=calibrate)
        tokens = list(TEXT)
        for _ in range(3):  # the target keeps two of four, then says something else
            chain = one.propose(tokens, 8).tokens
            tokens = [*tokens, *chain[:2], (chain[2] + 1) % 300]
        one._catch_up(tokens)
        _, wanted = exact(model, tokens)
        n = len(tokens)
        return one.cache.parts[2].keys[:, :, :n], wanted.parts[2].keys[:, :, :n]


def test_a_corrected_cache_equals_a_fresh_prefill(deep: Any) -> None:
    found, wanted = caches_after(deep, calibrate=True)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_without_correction_the_kept_tokens_stay_fuzzy(deep: Any) -> None:
    found, wanted = caches_after(deep, calibrate=False)
    assert torch.allclose(found[:, :, :len(TEXT)], wanted[:, :, :len(TEXT)], atol=1e-4)
    assert not torch.allclose(found, wanted, atol=1e-2)


@pytest.mark.parametrize("changes", [
    {}, {"decoding.group": 2, "decoding.edges": 0}, {"decoding.calibrate": False},
    {"decoding.gamma": 9, "decoding.edges": 2, "decoding.group": 3}, {"decoding.length": "auto"},
    {"sampling.temperature": 0.8, "seed": 3}], ids=str)
def test_the_text_is_that_of_plain_decoding(changes: dict[str, Any], deep: Any, prompts: list[str]) -> None:
    chosen = {"decoding": "easyspec", "decoding.fallback": False, **changes}
    plainly = {k: v for k, v in changes.items() if k.startswith(("sampling", "seed"))}
    for prompt in prompts[::9]:
        texts = [deep.generate([prompt], deep.settings.with_(c), lambda e: None, lambda: False).tokens
                 for c in (plainly, chosen)]
        assert texts[0] == texts[1]
    assert "side by side" in deep.effective()["decoding.group"].effective


def test_groups_of_one_are_always_accepted(deep: Any) -> None:
    """The target's own layers, computed exactly: every draft is right."""
    chosen = deep.settings.with_({"decoding": "easyspec", "decoding.group": 1, "decoding.gamma": 4,
                                  "decoding.fallback": False, "limits.max_new_tokens": 41})
    out = deep.generate(["the cat"], chosen, lambda e: None, lambda: False)
    assert out.mean_accepted == 5.0


def test_other_architectures_are_refused_in_one_sentence() -> None:
    odd: Any = SimpleNamespace(config=SimpleNamespace(model_type="gpt2", rope_parameters=None))
    with pytest.raises(SettingsError, match="choose another draft"):
        lean_of(odd, "x")
