"""Trees chosen by measured costs: real runs, equal to plain decoding whatever tree was chosen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workbench.machine import home

AUTO: list[dict[str, Any]] = [
    {"decoding": "optimal_tree"}, {"decoding": "optimal_tree", "decoding.ranks": 1, "decoding.depth": 3},
    {"decoding": "optimal_tree", "decoding.length": "auto"},
    {"decoding": "optimal_tree", "sampling.temperature": 0.9, "seed": 5},
    {"decoding": "token_recycling", "decoding.tree": "auto"},
    {"decoding": "token_recycling", "decoding.tree": "auto", "sampling.temperature": 0.8, "seed": 2},
    {"decoding": "adaptive_tables", "decoding.tree": "auto"},
    {"decoding": "adaptive_tables", "decoding.tree": "auto", "sampling.temperature": 0.7},
]


def run(model: Any, settings: Any, prompt: str | list[str], changes: dict[str, Any]) -> Any:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    return model.generate(prompts, settings.with_(changes), lambda e: None, lambda: False)


@pytest.mark.parametrize("changes", AUTO, ids=str)
@pytest.mark.parametrize("draft", ["small", "same"])
def test_the_text_is_that_of_plain_decoding(changes: dict[str, Any], draft: str, model: Any, settings: Any,
                                            prompts: list[str], small_draft: Any) -> None:
    chosen = {**changes, "decoding.fallback": False}
    if changes["decoding"] == "optimal_tree":
        chosen["decoding.draft"] = str(small_draft if draft == "small" else settings.model.source)
    elif draft == "same":
        pytest.skip("has no draft")
    plainly = {k: v for k, v in changes.items() if k.startswith(("sampling", "seed"))}
    for prompt in prompts[::6]:
        assert run(model, settings, prompt, chosen).tokens == run(model, settings, prompt, plainly).tokens


def test_a_batch_gives_each_its_own_text(model: Any, settings: Any, prompts: list[str],
                                         small_draft: Any) -> None:
    for changes in AUTO[:1] + AUTO[4:5] + AUTO[6:7]:
        chosen = {**changes, "decoding.fallback": False}
        if "optimal" in str(changes):
            chosen["decoding.draft"] = str(small_draft)
        batch = run(model, settings, prompts[1:4], chosen).tokens
        assert batch == [run(model, settings, p, {}).tokens[0] for p in prompts[1:4]]


def test_a_perfect_draft_is_always_accepted(model: Any, settings: Any) -> None:
    """Identical weights: the best guess is always right, so every step gains as many tokens as its tree is
    deep, at least one."""
    changes = {"decoding": "optimal_tree", "decoding.draft": settings.model.source, "decoding.depth": 4,
               "decoding.fallback": False, "limits.max_new_tokens": 200, "limits.stop_at_eos": False}
    out = run(model, settings, "the cat", changes)
    said = model.effective()["decoding.nodes"].effective
    assert 1 <= int(said.split("nodes, ")[1].split()[0]) <= 4
    assert 1.5 < out.mean_accepted <= 5.0
    plain = run(model, settings, "the cat", {"limits.max_new_tokens": 200, "limits.stop_at_eos": False})
    assert out.tokens == plain.tokens


def test_what_ran_is_said_and_the_counts_are_kept(model: Any, settings: Any, prompts: list[str]) -> None:
    changes = {"decoding": "token_recycling", "decoding.tree": "auto", "decoding.fallback": False,
               "limits.max_new_tokens": 60, "limits.stop_at_eos": False}
    run(model, settings, prompts[3], changes)
    assert "nodes" in model.effective()["decoding.tree"].effective
    kept = list((home() / "cache" / "acceptance").glob("*.json"))
    assert len(kept) == 1
    tried = json.loads(kept[0].read_text())["tried"]
    assert tried[0][0] > 5
    kept[0].write_text("{broken")  # counts that cannot be read are started anew
    assert run(model, settings, prompts[3], changes).tokens
    assert json.loads(kept[0].read_text())["tried"][0][0] > 5


def test_a_missing_draft_is_refused_before_loading() -> None:
    from workbench.settings import Settings

    choice = Settings().with_({"decoding": "optimal_tree"}).decoding
    why = choice.refuses(Settings().with_({"model.source": "some/other"}))
    assert why
    assert "draft" in why
