"""Decode attention of the native library against its float64 definition, on every path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels import native
from workbench.kernels.decode_attention import abi, cost, reference
from workbench.kernels.decode_attention.native import attend
from workbench.kernels.kv_int8.reference import dequantize, quantize

needs_library = pytest.mark.skipif(not native.available(), reason="no native library")
EXAMPLES = settings(max_examples=40, deadline=None)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def trees(draw: st.DrawFn) -> list[int]:
    """Parents of up to ten drafted nodes: chains, combs, bushes."""
    size = draw(st.integers(0, 10))
    return [draw(st.integers(-1, i - 1)) for i in range(size)]


def case(kind: str, batch: int, kv: int, groups: int, width: int, capacity: int, n: int, seed: int
         ) -> tuple[torch.Tensor, ...]:
    """(query, keys, values, key scales, value scales, what keys and values mean)."""
    query = (2 * randn(batch, kv * groups, n, width, seed=seed)).bfloat16().float()
    keys, values = (randn(batch, kv, capacity, width, seed=seed + i) for i in (1, 2))
    if kind == "int8":
        keys, key_scales = quantize(keys)
        values, value_scales = quantize(values)
        return (query, keys, values, key_scales, value_scales,
                dequantize(keys, key_scales, torch.float64),
                dequantize(values, value_scales, torch.float64))
    dtype = getattr(torch, kind)
    return query, keys.to(dtype), values.to(dtype), None, None, keys.to(dtype), values.to(dtype)


def error(kind: str, batch: int, kv: int, groups: int, width: int, base: int, parents: list[int],
          seed: int = 0) -> float:
    n = len(parents) + 1
    query, keys, values, ks, vs, k, v = case(kind, batch, kv, groups, width, base + n + 3, n, seed)
    got = attend(abi.declare(native.library()), query, keys, values, [base] * batch, parents,
                 key_scales=ks, value_scales=vs)
    wanted = reference.attend(query, k[:, :, :base + n], v[:, :, :base + n],
                              reference.tree_visible(base, parents))
    return float((got - wanted).abs().max() / v.double().abs().max())


@needs_library
@EXAMPLES
@given(kind=st.sampled_from(("bfloat16", "int8", "float32")), batch=st.integers(1, 3),
       kv=st.integers(1, 3), groups=st.sampled_from((1, 3, 4, 8)),
       width=st.sampled_from((32, 64, 96, 128, 80, 256)), base=st.integers(0, 600), parents=trees(),
       seed=st.integers(0, 99))
def test_is_the_definition(kind: str, batch: int, kv: int, groups: int, width: int, base: int,
                           parents: list[int], seed: int) -> None:
    # Weights are rounded to bfloat16 on the matrix unit: half of 2^-8 of a convex combination.
    limit = 2e-6 if kind == "float32" else 2.0 ** -8
    assert error(kind, batch, kv, groups, width, base, parents, seed) < limit


@needs_library
@EXAMPLES
@given(kind=st.sampled_from(("bfloat16", "int8")), base=st.integers(0, 530), parents=trees(),
       seed=st.integers(0, 99))
def test_a_tree_gives_every_node_the_bits_of_plain_decoding(kind: str, base: int,
                                                            parents: list[int], seed: int) -> None:
    """Each node's path laid out in order in a cache of its own: its last row must be the same."""
    n = len(parents) + 1
    query, keys, values, ks, vs, _, _ = case(kind, 1, 2, 4, 64, base + n, n, seed)
    library = abi.declare(native.library())
    whole = attend(library, query, keys, values, [base], parents, key_scales=ks, value_scales=vs)
    for node, path in enumerate(abi.paths_of(parents)):
        order = torch.tensor([*range(base), *(base + p for p in path)])
        plain = [None if t is None else t[:, :, order].contiguous() for t in (keys, values, ks, vs)]
        alone = attend(library, query[:, :, node:node + 1], plain[0], plain[1], [len(order) - 1],
                       key_scales=plain[2], value_scales=plain[3])
        assert torch.equal(alone[:, :, 0], whole[:, :, node]), (node, path)


@needs_library
def test_columns_hidden_at_the_left_and_behind_the_end_do_not_count() -> None:
    query, keys, values, _, _, _, _ = case("bfloat16", 2, 2, 4, 64, 400, 1, 3)
    library = abi.declare(native.library())
    first = [7, 300]
    clean = attend(library, query, keys, values, [320, 320], first=first)
    keys, values = keys.clone(), values.clone()
    for b, start in enumerate(first):
        keys[b, :, :start], values[b, :, :start] = 50.0, 1e4
    keys[:, :, 321:], values[:, :, 321:] = float("nan"), float("nan")
    assert torch.equal(clean, attend(library, query, keys, values, [320, 320], first=first))


@needs_library
@pytest.mark.parametrize("isa", ["avx2", "generic"])
def test_the_other_paths_are_the_definition_too(isa: str) -> None:
    code = ("import json, tests.kernels.test_decode_attention as t; print(json.dumps("
            "[t.error(k, 1, 2, 4, 64, 300, [-1, 0, 0]) for k in ('bfloat16', 'int8', 'float32')]))")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env={**os.environ, "WORKBENCH_ISA": isa}, cwd=Path(__file__).parents[2])
    assert max(json.loads(ran.stdout)) < 2e-6


def test_cost_counts_the_cache_once_for_all_rows() -> None:
    one = cost.traffic_bytes(1, 32, 4, 1000, 64, 64)
    eight = cost.traffic_bytes(8, 32, 4, 1000, 64, 64)
    assert one == 1000 * 2 * 4 * 128 + 2 * 32 * 128
    assert eight - one == 7 * 2 * 32 * 128
    assert cost.token_bytes(4, 64, 64, int8=True) == 4 * (128 + 4)
    assert cost.flops(8, 32, 1000, 64, 64) == 8 * cost.flops(1, 32, 1000, 64, 64)
