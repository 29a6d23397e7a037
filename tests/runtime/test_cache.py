"""Static caches: bytes, roll-back, and what int8 loses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import OutOfMemory, SettingsError
from workbench.kernels.kv_int8.launch import quantize
from workbench.runtime.cache_int8 import dequantize_into
from workbench.runtime.verify import depths
from workbench.shape import from_config
from workbench.techniques.base import family


def fill(model: Any, cache: Any, ids: list[int], parents: list[int] | None = None) -> torch.Tensor:
    """Append ids in plain order, or as a tree whose root is the first."""
    base = cache.length
    masks = model.forward.masks([0], cache.capacity)
    cache.show_blocks(1 if parents is None else masks.block)
    if parents is None:
        places, mask = torch.arange(base, base + len(ids)), masks.rows(base, len(ids))
    else:
        deep = depths(parents)
        places = torch.tensor([base, *(base + d for d in deep)])
        mask = masks.tree(base, parents, deep)
    with torch.inference_mode():
        return model.forward(torch.tensor([ids]), places[None], mask, cache, len(ids))


@pytest.mark.parametrize("kv", ["full", "int8"])
@pytest.mark.parametrize("batch", [1, 3])
def test_allocated_bytes_are_the_forecast_bytes(kv: str, batch: int, model: Any, settings: Any
                                                ) -> None:
    chosen = settings.with_(kv=kv)
    cache = model.cache(chosen, batch, 37)
    assert cache.nbytes == chosen.kv.token_bytes(model.shape, "float32") * batch * 37


@pytest.mark.parametrize("kv", ["full", "int8"])
def test_keep_leaves_what_a_fresh_prefill_would(kv: str, model: Any, settings: Any) -> None:
    chosen = settings.with_(kv=kv)
    cache, fresh = model.cache(chosen, 1, 40), model.cache(chosen, 1, 40)
    fill(model, cache, [5, 6, 7])
    fill(model, cache, [8, 11, 12, 13, 14], parents=[-1, -1, 1, 2])  # root 8 -> 12 -> 13 -> 14
    cache.keep(3, [0, 2, 3])
    fill(model, fresh, [5, 6, 7, 8, 12, 13])
    assert cache.length == fresh.length == 6
    if kv == "full":
        for one, two in zip(cache.layers, fresh.layers, strict=True):
            for a, b in zip(one.buffers(), two.buffers(), strict=True):
                assert torch.allclose(a[:, :, :6], b[:, :, :6], atol=1e-4)
    assert torch.allclose(fill(model, cache, [9]), fill(model, fresh, [9]),
                          atol=1e-3 if kv == "full" else 0.5)


def test_rewind_mends_a_forward_that_was_cut_short(model: Any, settings: Any) -> None:
    cache = model.cache(settings, 1, 40)
    want = fill(model, cache, [5, 6, 7])
    cache.rewind(0)
    cache.layers[0].length = 2  # only the first layer had run
    cache.rewind(0)
    assert torch.equal(fill(model, cache, [5, 6, 7]), want)


def test_a_full_cache_says_so(model: Any, settings: Any) -> None:
    cache = model.cache(settings, 1, 4)
    with pytest.raises(SettingsError, match="the KV cache holds 4 tokens and 5 were needed"):
        fill(model, cache, [1, 2, 3, 4, 5])


def test_a_cache_beyond_memory_is_refused_before_allocation(model: Any, settings: Any) -> None:
    with pytest.raises(OutOfMemory, match=r"the KV cache needs .* TiB"):
        model.cache(settings, 1 << 20, 1 << 20)


@given(st.integers(1, 70), st.floats(1e-6, 1e6), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_int8_error_bound(width: int, scale: float, seed: int) -> None:
    """Every element is within 0.51 steps of its vector's scale."""
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(seed)) * scale
    q, s = quantize(x)
    back = dequantize_into(torch.empty_like(x), q, s)
    assert ((x - back).abs() <= 0.51 * s.float() * (1 + 1e-5)).all()
    assert q.dtype == torch.int8


def test_int8_of_zeros_and_of_one_outlier() -> None:
    zeros = torch.zeros(2, 5)
    assert torch.equal(dequantize_into(torch.empty(2, 5), *quantize(zeros)), zeros)
    spike = torch.tensor([[1000.0, 0.0, 3.0]])
    back = dequantize_into(torch.empty(1, 3), *quantize(spike))
    assert abs(float(back[0, 0]) - 1000) < 4
    assert float(back[0, 1]) == 0


def test_int8_stays_close_on_the_model(model: Any, settings: Any) -> None:
    """Relative RMS error of the logits after 30 cached tokens."""
    ids = list(range(40, 70))
    full, small = model.cache(settings, 1, 40), model.cache(settings.with_(kv="int8"), 1, 40)
    want, got = fill(model, full, ids), fill(model, small, ids)
    error = float((want - got).pow(2).mean().sqrt() / want.pow(2).mean().sqrt())
    print(f"relative RMS error {error:.4f}")
    assert 0 < error < 0.05


def test_effective_dtype_is_reported(generate: Any) -> None:
    from workbench.events import Effective

    _, events = generate(kv="int8")
    kv = [e for e in events if isinstance(e, Effective) and e.path == "kv"][-1]
    assert kv.effective.startswith("int8")
    assert "allocated" in kv.effective


def test_latent_caches_are_counted() -> None:
    """Multi-head latent attention caches one latent and one rotary vector per token and layer."""
    from transformers import DeepseekV3Config

    from workbench.runtime.cache import full_cache

    config = DeepseekV3Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
        kv_lora_rank=24, qk_rope_head_dim=8, vocab_size=64, intermediate_size=64)
    shape = from_config(config.to_dict())
    for name in ("full", "int8"):
        kv = family("kvcache")[name]()
        cache = kv.start(config, 2, 11, torch.device("cpu"), torch.bfloat16)
        assert cache.nbytes == kv.token_bytes(shape, "bfloat16") * 2 * 11
    assert full_cache(config, 1, 1, torch.device("cpu"), torch.float32).nbytes == 3 * 32 * 4
