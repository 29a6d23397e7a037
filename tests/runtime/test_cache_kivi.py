"""The 2-bit cache: what is packed when, roll-back, bytes, and what it loses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.runtime.test_cache import fill
from workbench.kernels.kivi import cpu, reference
from workbench.runtime.cache_int8 import Scratch
from workbench.runtime.cache_kivi import Form, KiviLayer, value_group

FORM = Form()


def layer(capacity: int = 1000, form: Form = FORM, width: int = 32) -> KiviLayer:
    return KiviLayer(form, Scratch(), 1, capacity, (2, width, width), torch.device("cpu"), torch.float32)


def tokens(n: int, width: int = 32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(1, 2, n, width, generator=generator) for _ in range(2))
    keys[..., 3] *= 10  # an outlier channel
    return keys, values


def read(cache: KiviLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """All tokens but one more, as attention sees them."""
    keys, values = cache.update(*tokens(1, seed=9))
    cache.length -= 1
    return keys[:, :, : cache.length].clone(), values[:, :, : cache.length].clone()


def test_one_by_one_and_in_chunks_give_the_same_store() -> None:
    keys, values = tokens(700)
    found = []
    for chunk in (1, 5, 100, 128):
        cache = layer()
        for at in range(0, 700, chunk):
            cache.update(keys[:, :, at : at + chunk], values[:, :, at : at + chunk])
        found.append((*read(cache), cache.packed_keys, cache.packed_values))
    assert {f[2:] for f in found} == {(640, 572)}
    for other in found[1:]:
        assert torch.equal(other[0], found[0][0])
        assert torch.equal(other[1], found[0][1])


def test_a_long_prompt_at_once_is_packed_as_far_as_roll_back_allows() -> None:
    keys, values = tokens(900)
    cache, slow = layer(), layer()
    seen, _ = cache.update(keys, values)
    assert torch.equal(seen, keys)  # a prompt attends to itself in full
    assert (cache.packed_keys, cache.packed_values) == (768, 644)
    for at in range(0, 900, 50):
        slow.update(keys[:, :, at : at + 50], values[:, :, at : at + 50])
    assert all(torch.equal(a, b) for a, b in zip(read(cache), read(slow), strict=True))


def test_recent_tokens_are_exact_and_old_ones_within_half_a_step() -> None:
    keys, values = tokens(400)
    cache = layer()
    cache.update(keys[:, :, :300], values[:, :, :300])
    cache.update(keys[:, :, 300:], values[:, :, 300:])
    k, v = read(cache)
    assert torch.equal(k[:, :, 384:], keys[:, :, 384:])
    assert torch.equal(v[:, :, 272:], values[:, :, 272:])
    _, pairs = reference.quantize(keys[:, :, :384], 2, 2, 32)
    step = pairs[..., 0].float().repeat_interleave(32, 2)
    assert ((k[:, :, :384] - keys[:, :, :384]).abs() <= 0.51 * step + 0.02 * keys.abs().amax()).all()
    assert (k[:, :, :384] != keys[:, :, :384]).float().mean() > 0.5
    # Its own scale per channel: the outlier channel does not coarsen the others.
    rest = [c for c in range(32) if c != 3]
    per_token, scales = reference.quantize(keys[:, :, :384], 2, 3, 32)
    worse = reference.dequantize(per_token, scales, 3) - keys[:, :, :384]
    mine = k[:, :, :384] - keys[:, :, :384]
    assert mine[..., rest].norm() < 0.5 * worse[..., rest].norm()


@pytest.mark.parametrize("back", [1, 60, 127])
def test_rows_taken_back_leave_no_trace(back: int) -> None:
    keys, values = tokens(640)
    cache, fresh = layer(), layer()
    for at in range(0, 512, 64):
        for c in (cache, fresh):
            c.update(keys[:, :, at : at + 64], values[:, :, at : at + 64])
    draft = tokens(back + 1, seed=5)
    cache.update(*draft)
    cache.rewind(513)
    for c in (cache, fresh):
        c.length = 512
        c.update(draft[0][:, :, :1], draft[1][:, :, :1])
        c.update(keys[:, :, 512:], values[:, :, 512:])
    assert all(torch.equal(a, b) for a, b in zip(read(cache), read(fresh), strict=True))


def test_rewinding_far_keeps_the_tokens_in_order() -> None:
    keys, values = tokens(600)
    cache = layer()
    for at in range(0, 600, 100):
        cache.update(keys[:, :, at : at + 100], values[:, :, at : at + 100])
    cache.rewind(200)
    k, v = read(cache)
    assert k.shape[2] == 200
    assert torch.nn.functional.cosine_similarity(k.flatten(), keys[:, :, :200].flatten(), dim=0) > 0.9
    assert torch.nn.functional.cosine_similarity(v.flatten(), values[:, :, :200].flatten(), dim=0) > 0.85


@pytest.mark.parametrize(("bits", "value_bits", "group"), [(2, 2, 32), (4, 2, 64), (2, 4, 128)])
def test_allocated_bytes_are_the_forecast_bytes(
    bits: int, value_bits: int, group: int, model: Any, settings: Any
) -> None:
    chosen = settings.with_({"kv": "kivi", "kv.bits": bits, "kv.value_bits": value_bits, "kv.group": group})
    cache = model.cache(chosen, 3, 256)
    each = chosen.kv.token_bytes(model.shape, "float32") * 256 + chosen.kv.fixed_bytes(
        model.shape, "float32"
    )
    assert cache.nbytes == 3 * each


def test_until_something_is_packed_it_is_the_full_cache(model: Any, settings: Any) -> None:
    full = fill(model, model.cache(settings, 1, 128), list(range(5, 105)))
    mine = fill(model, model.cache(settings.with_(kv="kivi"), 1, 128), list(range(5, 105)))
    assert torch.equal(full, mine)


def test_a_constant_group_divides_by_nothing() -> None:
    same = torch.full((1, 1, 32, 16), 3.0)
    assert torch.equal(cpu.unpack_keys(*cpu.pack_keys(same, 2, 32), 2, torch.float32), same)
    assert torch.equal(cpu.unpack_values(*cpu.pack_values(same, 2, 16), 2, torch.float32), same)
    assert value_group(48, 32) == 16
