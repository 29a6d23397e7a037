"""Hidden states beside the cache: the right rows, kept and forgotten with their tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.errors import SettingsError
from workbench.runtime import load, native_library
from workbench.runtime.states import keep_states
from workbench.settings import Settings

_WIDE = {"head_dim": 32, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3,
         "initializer_range": 0.08}
_NATIVE = pytest.mark.skipif(not native_library.available(), reason=native_library.why_not())
_BOTH = pytest.mark.parametrize("weights", ["fp32", pytest.param("bf16", marks=_NATIVE)])


@pytest.fixture(scope="module")
def opened(write_config: Callable[..., Path]) -> Callable[[str], Any]:
    held: dict[str, Any] = {}

    def get(weights: str) -> Any:
        if weights not in held:
            dtype = {"fp32": "float32", "bf16": "bfloat16"}[weights]
            settings = Settings().with_({
                "model.source": str(write_config(**_WIDE, dtype=dtype)), "model.weights": "random",
                "weights": weights, "compute.threads": 1})
            held[weights] = settings, load(settings, lambda event: None)
        return held[weights]

    return get


def begin(opened: Any, weights: str, batch: int = 1, taps: tuple[int, ...] = (2, 3), **changes: Any) -> Any:
    settings, model = opened(weights)
    cache = model.cache(settings.with_(changes), batch, 32)
    keep_states(cache, model.forward.config, taps, model.device, torch.float32)
    masks = model.forward.masks([0] * batch, 32)
    return model.forward, cache, masks


def feed(forward: Any, cache: Any, masks: Any, ids: list[list[int]]) -> torch.Tensor:
    base, n = cache.length, len(ids[0])
    places = torch.arange(base, base + n)[None].expand(len(ids), n)
    with torch.inference_mode():
        chain = list(range(-1, n - 2))
        mask = masks.tree(base, chain, list(range(1, n))) if base else masks.rows(base, n)
        cache.show_blocks(masks.block if base else 1)  # as the loop does after a prompt
        return forward(torch.tensor(ids), places, mask, cache, n).clone()


def reference(forward: Any, ids: list[int]) -> list[torch.Tensor]:
    """What transformers calls hidden states, before the final norm too."""
    seen: list[torch.Tensor] = []
    hook = forward.model.model.norm.register_forward_pre_hook(lambda m, x: seen.append(x[0]))
    try:
        with torch.inference_mode():
            out = forward.model(torch.tensor([ids]), output_hidden_states=True)
    finally:
        hook.remove()
    return [*(h[0].float() for h in out.hidden_states[:-1]), seen[0][0].float()]


@_BOTH
def test_states_are_the_residual_stream(opened: Any, weights: str) -> None:
    """Every tap, from a prompt's chunk and from single steps, is what the modules themselves see."""
    forward, cache, masks = begin(opened, weights)
    ids = [5, 9, 200, 31, 7, 8, 120]
    feed(forward, cache, masks, [ids[:4]])
    for token in ids[4:]:
        feed(forward, cache, masks, [[token]])
    wanted = reference(forward, ids)
    for tap in (2, 3):
        close = 1e-4 if weights == "fp32" else 0.05 * float(wanted[tap].abs().max())
        torch.testing.assert_close(cache.states.of(tap, 0, 7), wanted[tap], atol=close, rtol=0)
    assert not torch.allclose(cache.states.of(2, 0, 7), cache.states.of(3, 0, 7), atol=0.05)


@_BOTH
def test_states_stay_with_the_tokens_that_are_kept(opened: Any, weights: str) -> None:
    """After a tree of which one branch is kept, the states equal those of the plain text, to the bit."""
    forward, cache, masks = begin(opened, weights)
    feed(forward, cache, masks, [[5, 9, 200]])
    tree, deep = [-1, -1, 1], [1, 1, 2]  # root 31, then 40 | 7 -> 8
    cache.show_blocks(masks.block)
    with torch.inference_mode():
        forward(torch.tensor([[31, 40, 7, 8]]), torch.tensor([[3, 4, 4, 5]]),
                masks.tree(3, tree, deep), cache, 4)
    cache.keep(3, [0, 2, 3])
    feed(forward, cache, masks, [[120]])
    plain_forward, plain, plain_masks = begin(opened, weights)
    feed(plain_forward, plain, plain_masks, [[5, 9, 200]])
    for token in (31, 7, 8, 120):
        feed(plain_forward, plain, plain_masks, [[token]])
    assert cache.length == plain.length == 7
    for tap in (2, 3):
        one, other = cache.states.of(tap, 0, 7), plain.states.of(tap, 0, 7)
        if weights == "bf16":
            assert torch.equal(one, other)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@_BOTH
def test_states_of_a_sequence_that_stays(opened: Any, weights: str) -> None:
    forward, cache, masks = begin(opened, weights, batch=3)
    feed(forward, cache, masks, [[5, 9], [7, 8], [3, 4]])
    kept = cache.states.of(3, 0, 2, 2).clone()
    cache.take([0, 2])
    masks.take([0, 2])
    assert torch.equal(cache.states.of(3, 0, 2, 1), kept)


@_BOTH
def test_entering_at_a_layer_continues_the_forward(opened: Any, weights: str) -> None:
    """Rows given at layer 2 as they were told there have the logits of the whole forward."""
    forward, cache, masks = begin(opened, weights)
    feed(forward, cache, masks, [[5, 9, 200]])
    whole = feed(forward, cache, masks, [[31, 7]])
    given = cache.states.of(2, 3, 5).clone()
    cache.rewind(3)
    with torch.inference_mode():
        again = forward.enter(given, 2, torch.tensor([3, 4]), masks.ragged([0], [3], [(-1,)]), cache)
    assert cache.length == 3
    torch.testing.assert_close(again, whole[0], atol=0 if weights == "bf16" else 1e-4, rtol=0)


@_BOTH
def test_tokens_beyond_the_vocabulary_are_prompts(opened: Any, weights: str) -> None:
    """A prompt whose embedding is a token's own gives that token's logits; another one does not."""
    forward, cache, masks = begin(opened, weights)
    wanted = feed(forward, cache, masks, [[5, 9, 31]])
    table = forward.model.get_input_embeddings().weight
    try:
        forward.prompts = torch.stack([table[31], table[7]]).detach()
        cache.rewind(0)
        same = feed(forward, cache, masks, [[5, 9, 300]])
        cache.rewind(0)
        other = feed(forward, cache, masks, [[5, 9, 301]])
    finally:
        forward.prompts = None
    assert torch.equal(same, wanted)
    assert not torch.equal(other, wanted)


def test_a_packed_cache_says_what_to_set(opened: Any) -> None:
    settings, model = opened("fp32")
    cache = model.cache(settings.with_({"kv": "kivi"}), 1, 256)
    with pytest.raises(SettingsError, match="set kv=full"):
        keep_states(cache, model.forward.config, [3], model.device, torch.float32)
