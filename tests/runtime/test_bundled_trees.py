"""On the bundled models: the text of plain decoding, and a cache that equals a fresh prefill after it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workbench import zoo
from workbench.runtime.speculation import SpeculativeLoop
from workbench.settings import Settings

METHODS: dict[str, dict[str, Any]] = {
    "optimal_tree": {"decoding": "optimal_tree"},
    "easyspec": {"decoding": "easyspec", "decoding.group": 8, "decoding.edges": 0},
    "easyspec of the draft": {"decoding": "easyspec", "decoding.draft": "auto", "decoding.group": 2,
                              "decoding.edges": 0},
    "token_recycling": {"decoding": "token_recycling", "decoding.tree": "auto"},
    "adaptive_tables": {"decoding": "adaptive_tables", "decoding.tree": "auto"},
}


@pytest.fixture(scope="module", params=["bf16", "fp32"])
def target(request: Any) -> Any:
    from workbench.runtime import load

    settings = Settings().with_({"weights": request.param, "compute.threads": 1, "telemetry.preset": "off",
                                 "limits.max_new_tokens": 32, "limits.stop_at_eos": False})
    made = load(settings, lambda event: None)
    yield made
    made.close()


def tokens(target: Any, prompt: str, changes: dict[str, Any]) -> list[int]:
    chosen = target.settings.with_(changes)
    found: list[int] = target.generate([prompt], chosen, lambda e: None, lambda: False).tokens[0]
    return found


@pytest.mark.parametrize("sampling", [{}, {"sampling.temperature": 0.8, "seed": 7}], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_the_text_is_that_of_plain_decoding(method: str, sampling: dict[str, Any], target: Any) -> None:
    changes = {**METHODS[method], "decoding.fallback": False, **sampling}
    for prompt in zoo.prompts()[::24]:
        assert tokens(target, prompt.text, changes) == tokens(target, prompt.text, sampling)


@pytest.mark.parametrize("method", METHODS)
def test_the_cache_after_roll_backs_is_that_of_a_prefill(method: str, target: Any,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[SpeculativeLoop] = []
    started = SpeculativeLoop.__init__

    def watched(self: SpeculativeLoop, *args: Any, **options: Any) -> None:
        started(self, *args, **options)
        loops.append(self)

    monkeypatch.setattr(SpeculativeLoop, "__init__", watched)
    prompt = zoo.prompts()[3].text
    ids = [*target.encode(prompt), *tokens(target, prompt, {**METHODS[method], "decoding.fallback": False})]
    loop = loops[-1]
    assert loop.drafted > loop.accepted  # something was rolled back
    held = len(ids) - 1
    with torch.inference_mode():
        masks, cache = target.forward.masks([0], held), target.cache(target.settings, 1, held)
        both = torch.tensor([ids[:held], list(range(held))])
        target.forward(both[:1], both[1:], masks.rows(0, held), cache, 1)
    tolerance = {"fp32": 1e-3, "bf16": 0.13}[target.settings.weights.name()]
    for mine, fresh in zip(loop.cache.parts, cache.parts, strict=True):
        assert torch.allclose(mine.keys[:, :, :held].float(), fresh.keys[:, :, :held].float(), atol=tolerance)
        assert torch.allclose(mine.values[:, :, :held].float(), fresh.values[:, :, :held].float(),
                              atol=tolerance)
