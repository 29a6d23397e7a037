"""Sequences of different lengths in one forward: rows, masks and caches, against each sequence alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import SettingsError
from workbench.runtime import native_library, ragged
from workbench.runtime.cache import StaticCache, full_cache
from workbench.runtime.cache_int8 import int8_cache
from workbench.runtime.cache_split import SplitCache, split
from workbench.runtime.masks import Masks
from workbench.runtime.native import MOST_ROWS
from workbench.runtime.verify import depths

_CONFIG = SimpleNamespace(num_hidden_layers=2, num_key_value_heads=2, num_attention_heads=4, head_dim=8,
                          hidden_size=32, get_text_config=lambda: _CONFIG)
_CPU = torch.device("cpu")
trees = st.lists(st.integers(0, 5), max_size=6).map(
    lambda picks: [min(p, i) - 1 for i, p in enumerate(picks)])


# -- masks ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20), trees), min_size=1, max_size=4),
       st.sampled_from([0, 6]), st.sampled_from([1, 16]))
def test_a_row_sees_its_past_and_its_path(sequences: list[tuple[int, int, list[int]]], window: int,
                                          block: int) -> None:
    pads = [p for p, _, _ in sequences]
    bases = [p + held for p, held, _ in sequences]
    masks = Masks(pads, 64, device=_CPU, dtype=torch.float32, window=window, block=block)
    found = masks.ragged(range(len(pads)), bases, [t for _, _, t in sequences])
    n = 1 + max(len(t) for _, _, t in sequences)
    assert found.shape[:3] == (len(pads), 1, n)
    assert found.shape[3] == min(64, -(-(max(bases) + n) // block) * block)
    for row, (pad, _, tree) in enumerate(sequences):
        base, deep = bases[row], [0, *depths(tree)]
        for i in range(n):
            seen = set((found[row, 0, i] == 0).nonzero()[:, 0].tolist())
            if i > len(tree):
                assert seen == {base + i}  # a row that is not there: itself, or its softmax is 0/0
                continue
            path, node = {base + i}, i
            while node:
                node = tree[node - 1] + 1
                path.add(base + node)
            near = {c for c in [*range(pad, base), *path] if not window or
                    base + deep[i] - (c if c < base else base + deep[c - base]) < window}
            assert seen == near


# -- caches --------------------------------------------------------------------------------------------


def filled(kind: str, batch: int = 3, columns: int = 20) -> tuple[StaticCache, torch.Tensor]:
    """A cache whose column c of sequence b holds numbers that tell b and c; and those numbers."""
    make = {"full": full_cache, "int8": int8_cache}[kind]
    cache = make(_CONFIG, batch, 32, _CPU, torch.float32)
    numbers = torch.randn(batch, 2, columns, 8, generator=torch.Generator().manual_seed(3))
    for layer in cache.parts:
        layer.update(numbers, -numbers)
    return cache, numbers


def read(cache: StaticCache) -> torch.Tensor:
    layer: Any = cache.parts[-1]
    if hasattr(layer, "key_scales"):
        return layer.keys.float() * layer.key_scales.float()
    return layer.keys


@pytest.mark.parametrize("kind", ["full", "int8"])
def test_each_sequence_keeps_its_own_rows(kind: str) -> None:
    cache, _ = filled(kind)
    before = read(cache).clone()
    cache.keep_each([0, 1, 2], [10, 8, 12], [[0, 2, 5], [0, 1], [0, 3]])
    now = read(cache)
    for slot, places in ((0, [*range(10), 10, 12, 15]), (1, list(range(10))), (2, [*range(12), 12, 15])):
        assert torch.equal(now[slot, :, :len(places)], before[slot][:, places])


@pytest.mark.parametrize("kind", ["full", "int8"])
def test_overlapping_moves_do_not_eat_each_other(kind: str) -> None:
    cache, _ = filled(kind)
    before = read(cache).clone()
    cache.shift([0, 2], [5, 0], [list(range(0, 15)), list(range(4, 20))])
    now = read(cache)
    assert torch.equal(now[0, :, 5:20], before[0, :, :15])
    assert torch.equal(now[2, :, :16], before[2, :, 4:20])
    assert torch.equal(now[1], before[1])


@pytest.mark.parametrize("kind", ["full", "int8"])
@pytest.mark.parametrize("slots", [[0, 1, 2], [2, 0]])
def test_rows_go_to_their_own_columns(kind: str, slots: list[int]) -> None:
    cache, _ = filled(kind)
    other, _ = filled(kind)
    new = torch.randn(len(slots), 2, 3, 8, generator=torch.Generator().manual_seed(4))
    bases = [4 + 3 * s for s in slots]
    cache.open(slots, bases, 3)
    shown, _ = cache.parts[-1].update(new, -new)
    cache.close(20)
    assert shown.shape[0] == len(slots)
    for row, (slot, base) in enumerate(zip(slots, bases, strict=True)):
        other.rewind(base)
        part = torch.zeros(3, 2, 3, 8)
        part[slot] = new[row]
        other.parts[-1].update(part, -part)
        assert torch.equal(read(cache)[slot, :, base:base + 3], read(other)[slot, :, base:base + 3])
    assert cache.length == 20


def test_no_more_columns_than_there_are() -> None:
    cache, _ = filled("full")
    with pytest.raises(SettingsError, match="holds 32 tokens and 33"):
        cache.open([0, 1], [10, 30], 3)


def test_packed_caches_are_split_and_others_are_not() -> None:
    from workbench.techniques.base import family

    def make(name: str) -> StaticCache:
        method = family("kvcache")[name]()
        return split(lambda n: method.start(_CONFIG, n, 64, _CPU, torch.float32), 3)  # type: ignore[attr-defined]

    assert not isinstance(make("full"), SplitCache)
    cache = make("kivi")
    assert isinstance(cache, SplitCache)
    assert not cache.movable
    with pytest.raises(NotImplementedError):
        cache.shift([0], [1], [[0]])
    cache.take([2, 0])
    assert cache.parts[0].batch == 2
    assert cache.nbytes == 2 * make("kivi").nbytes // 3


# -- forwards ------------------------------------------------------------------------------------------

_TREES = ((), (-1, 0, 1), (-1, -1, 0, 0, 1), (-1,))


def together(model: Any, settings: Any, texts: list[list[int]], slots: list[int], most: int | None = None,
             last: bool = False) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Logits of ragged rows after prefilled texts; and of each sequence's rows alone."""
    f = model.forward
    cache, alone = model.cache(settings, len(texts), 96), []
    masks = f.masks([0] * len(texts), 96)
    cache.show_blocks(masks.block)
    for slot, text in enumerate(texts):
        rows = masks.ragged([slot], [0], [tuple(range(-1, len(text) - 2))])
        ragged.run(f, rows, [text], [list(range(len(text)))], cache, last=True)
    given, places = [], []
    for slot in slots:
        tree = _TREES[slot]
        given.append([7 + slot + i for i in range(1 + len(tree))])
        places.append([len(texts[slot]) + d for d in [0, *depths(tree)]])
        one = model.cache(settings, 1, 96)
        own = f.masks([0], 96)
        one.show_blocks(own.block)
        rows = own.ragged([0], [0], [tuple(range(-1, len(texts[slot]) - 2))])
        ragged.run(f, rows, [texts[slot]], [list(range(len(texts[slot])))], one)
        rows = own.ragged([0], [len(texts[slot])], [tree])
        logits = ragged.run(f, rows, [given[-1]], [places[-1]], one)[0].clone()
        alone.append(logits[-1:] if last else logits)
    rows = masks.ragged(slots, [len(texts[s]) for s in slots], [_TREES[s] for s in slots])
    if most is not None:
        f.executor.most_rows = most
    found = [x.clone() for x in ragged.run(f, rows, given, places, cache, last)]
    return found, alone


_TEXTS = [list(range(20, 20 + n)) for n in (5, 31, 17, 64)]


@pytest.mark.parametrize("kv", ["full", "int8"])
@pytest.mark.parametrize("slots", [[0, 1, 2, 3], [3, 1], [2]])
@pytest.mark.parametrize("last", [False, True])
def test_module_by_module(model: Any, settings: Any, kv: str, slots: list[int], last: bool) -> None:
    assert model.forward.executor is None  # float32
    with torch.inference_mode():
        found, alone = together(model, settings.with_({"kv": kv}), _TEXTS, slots, last=last)
    for ours, theirs in zip(found, alone, strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().max()) < 2e-4 * max(1.0, float(theirs.abs().max()))


@pytest.fixture(scope="module")
def native(write_config: Any) -> Any:
    from workbench.runtime import load
    from workbench.settings import Settings

    chosen = Settings().with_({
        "model.source": str(write_config(head_dim=32, hidden_size=128, dtype="bfloat16")),
        "model.weights": "random", "weights": "bf16", "telemetry.preset": "off", "compute.threads": 1})
    return chosen, load(chosen, lambda event: None)


@pytest.mark.skipif(not native_library.available(), reason=native_library.why_not())
@pytest.mark.parametrize("kv", ["full", "int8"])
@pytest.mark.parametrize("slots", [[0, 1, 2, 3], [3, 1], [2]])
@pytest.mark.parametrize("last", [False, True])
def test_natively_with_the_same_bits(native: Any, kv: str, slots: list[int], last: bool) -> None:
    chosen, model = native
    assert model.forward.executor is not None, model.forward.module_reason
    with torch.inference_mode():
        found, alone = together(model, chosen.with_({"kv": kv}), _TEXTS, slots, last=last)
        parts, _ = together(model, chosen.with_({"kv": kv}), _TEXTS, slots, 6, last)  # several forwards
        model.forward.executor.most_rows = MOST_ROWS
    for ours, theirs, again in zip(found, alone, parts, strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(again, theirs)
