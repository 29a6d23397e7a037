"""The draft's own forward says what transformers' says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workbench.runtime.cache import full_cache
from workbench.runtime.forward import Forward
from workbench.runtime.lean import LeanForward, lighten


def logits(forward: Any, chunks: list[list[int]]) -> torch.Tensor:
    cache = full_cache(forward.config, 1, 64, forward.device, forward.dtype)
    masks = forward.masks([0], 64)
    found = []
    with torch.inference_mode():
        for chunk in chunks:
            base, n = cache.length, len(chunk)
            places = torch.arange(base, base + n)[None]
            found.append(forward(torch.tensor([chunk]), places, masks.rows(base, n), cache, n)[0])
    return torch.cat(found)


@pytest.mark.parametrize("chunks", [[[1, 2, 3, 4, 5]], [[1, 2, 3], [4], [5, 6, 7], [8]]])
def test_same_logits_as_transformers(model: Any, chunks: list[list[int]]) -> None:
    lean = lighten(model.forward)
    assert isinstance(lean, LeanForward)
    assert torch.allclose(logits(lean, chunks), logits(model.forward, chunks), atol=1e-3, rtol=1e-3)


def test_other_architectures_keep_their_own_code() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

    small = {"vocab_size": 50, "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
    for other in (Qwen3ForCausalLM(Qwen3Config(**small, num_attention_heads=2,
                                           num_key_value_heads=1, head_dim=8)),
                  GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2,
                                             bos_token_id=1, eos_token_id=2))):
        forward = Forward(other, torch.device("cpu"), torch.float32)
        assert lighten(forward) is forward
        assert torch.isfinite(logits(forward, [[1, 2, 3], [4]])).all()
