"""Drafting with heads changes no token; their caches follow what was accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.heads.conftest import METHODS
from workbench.events import Draft
from workbench.runtime import native_library

_NATIVE = pytest.mark.skipif(not native_library.available(), reason=native_library.why_not())
_BOTH = pytest.mark.parametrize("weights", ["fp32", pytest.param("bf16", marks=_NATIVE)])
_EACH = pytest.mark.parametrize("method", METHODS)


def run(opened: Any, prompts: list[str], **changes: Any) -> tuple[Any, list[Any]]:
    settings, model = opened
    events: list[Any] = []
    return model.generate(prompts, settings.with_(changes), events.append, lambda: False), events


def with_head(method: str, heads: dict[str, Path], **changes: Any) -> dict[str, Any]:
    return {"decoding": {"name": method, "head": str(heads[method]), "fallback": False}, **changes}


@_BOTH
@_EACH
def test_greedy_text_is_plain_text(opened: Any, heads: Any, prompts: list[str], method: str, weights: str
                                   ) -> None:
    for prompt in prompts:
        plain, _ = run(opened(weights), [prompt])
        found, events = run(opened(weights), [prompt], **with_head(method, heads))
        assert found.tokens == plain.tokens
        assert sum(e.drafted for e in events if isinstance(e, Draft)) > 20


@_EACH
def test_sampled_text_is_plain_text_of_the_same_seed(opened: Any, heads: Any, prompts: list[str],
                                                     method: str) -> None:
    drawn = {"sampling.temperature": 1.0, "seed": 7}
    plain, _ = run(opened("fp32"), prompts[:1], **drawn)
    found, _ = run(opened("fp32"), prompts[:1], **with_head(method, heads, **drawn))
    greedy, _ = run(opened("fp32"), prompts[:1])
    assert found.tokens == plain.tokens != greedy.tokens


@_BOTH
@_EACH
def test_every_sequence_of_a_batch_has_its_own_text(opened: Any, heads: Any, prompts: list[str], method: str,
                                                    weights: str) -> None:
    changes = {"limits.batch": len(prompts), "limits.max_new_tokens": 24}
    alone = [run(opened(weights), [p], **{"limits.max_new_tokens": 24})[0].tokens[0] for p in prompts]
    found, _ = run(opened(weights), prompts, **with_head(method, heads, **changes))
    assert found.tokens == alone


@_EACH
def test_steps_without_a_draft_are_caught_up_with(opened: Any, heads: Any, prompts: list[str], method: str,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Where speculation pauses, tokens are decoded that the head has not read."""
    from workbench.runtime.pays import Pays

    plain, _ = run(opened("fp32"), prompts[:1])
    steps = iter(range(1000))
    monkeypatch.setattr(Pays, "draft", lambda self, *_: next(steps) % 5 in (0, 3, 4))
    found, events = run(opened("fp32"), prompts[:1], **with_head(method, heads))
    assert found.tokens == plain.tokens
    assert len([e for e in events if isinstance(e, Draft)]) > 5


class Fresh:
    """States of a text from one plain forward, as a drafter reads them."""

    def __init__(self, model: Any, tokens: list[int], tap: int) -> None:
        from workbench.runtime.cache import full_cache
        from workbench.runtime.states import keep_states

        forward, n = model.forward, len(tokens)
        cache = full_cache(forward.config, 1, n, forward.device, forward.dtype)
        self._states = keep_states(cache, forward.config, [tap], forward.device, torch.float32)
        with torch.inference_mode():
            forward(torch.tensor([tokens]), torch.arange(n)[None], forward.masks([0], n).rows(0, n), cache, 1)

    def rows(self, tap: int, start: int, end: int) -> torch.Tensor:
        return self._states.of(tap, start, end)


@pytest.mark.parametrize("method", ["clover", "eagle", "dovetail"])
def test_after_a_rollback_a_head_drafts_as_a_fresh_one(opened: Any, heads: Any, prompts: list[str],
                                                       method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a head keeps of the text is what it would read of it anew, however much was thrown away."""
    from workbench.runtime.model import Runtime
    from workbench.runtime.sampling import Sampler
    from workbench.techniques.decoding._heads import HeadDrafter

    settings, model = opened("fp32")
    settings = settings.with_(with_head(method, heads, **{"decoding.width": 3}))
    seen: list[tuple[list[int], int, int, Any]] = []
    propose = HeadDrafter.propose

    def watched(self: Any, tokens: list[int], budget: int) -> Any:
        found = propose(self, tokens, budget)
        seen.append((list(tokens), budget, self.most, found))
        return found

    monkeypatch.setattr(HeadDrafter, "propose", watched)
    model.generate(prompts[:1], settings, lambda e: None, lambda: False)
    monkeypatch.undo()
    assert len(seen) > 10
    for tokens, budget, most, wanted in seen[3::5]:
        sampler = Sampler(0.0, 0, 1.0, 0, model.device)
        drafter = settings.decoding.start(Runtime(model, settings, sampler, 512, None, lambda e: None))
        drafter.states, drafter.most = Fresh(model, tokens[:-1], model.shape.layers), most
        with torch.inference_mode():
            again = drafter.propose(tokens, budget)
        assert again.tokens == wanted.tokens
        assert again.parents == wanted.parents
