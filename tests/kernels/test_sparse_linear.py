"""Sparse products: the bits of the dense product of the same matrix, at odd shapes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels import native
from workbench.kernels.native import linear
from workbench.kernels.sparse_linear import cost, packing, reference

needs_library = pytest.mark.skipif(not native.available(), reason=native.why_not() or "-")


def sparse(n: int, k: int, share: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, k, generator=generator)
    return w.masked_fill(torch.rand(n, k, generator=generator) < share, 0.0).bfloat16()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 90), k=st.integers(1, 200), share=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
       seed=st.integers(0, 99))
def test_packing_is_exact_and_its_bytes_are_as_counted(n: int, k: int, share: float, seed: int) -> None:
    w = sparse(n, k, share, seed)
    values, index = packing.pack(w)
    assert torch.equal(packing.unpack(values, index, n, k), w)
    held = values.numel() * 2 + index.numel() * 4
    assert held == cost.weight_bytes(n, k, int((w != 0).sum()))


@needs_library
@settings(max_examples=60, deadline=None)
@given(m=st.integers(1, 40), n=st.integers(1, 100), k=st.integers(1, 300), bias=st.booleans(),
       share=st.sampled_from([0.0, 0.7, 0.95, 1.0]), seed=st.integers(0, 99))
def test_a_product_has_the_bits_of_the_dense_one(m, n, k, bias, share, seed) -> None:
    from workbench.kernels.sparse_linear import native as kernel

    w = sparse(n, k, share, seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(m, k, generator=generator).bfloat16()
    b = torch.randn(n, generator=generator) if bias else None
    values, index = packing.pack(w)
    assert torch.equal(kernel.expand(values, index, n, k), w)
    got = kernel.matmul(x, values, index, n, b, torch.float32)
    assert torch.equal(got, linear.matmul(x, linear.dense(w), b, torch.float32))
    expected = reference.matmul(x, values, index, n, b)
    assert float((got - expected).norm()) <= 1e-5 * float(expected.norm()) + 1e-12


@needs_library
@pytest.mark.parametrize("threads", [1, 2])
def test_several_matrices_and_threads(threads: int) -> None:
    """Products that share x, in one call, sparse beside dense, as the decoder asks for them."""
    import ctypes

    from workbench.kernels.native import abi
    from workbench.kernels.sparse_linear import native as kernel

    library, x = native.library(), torch.randn(7, 160).bfloat16()
    matrices = [sparse(n, 160, 0.8, n) for n in (48, 200, 33)]
    packed = [packing.pack(w) for w in matrices]
    weights = [kernel.describe(*packed[0], 48, 160), linear.dense(matrices[1]),
               kernel.describe(*packed[2], 33, 160)]
    results = [torch.empty(7, len(w)) for w in matrices]
    products = (abi.Product * 3)(*(abi.Product(ctypes.pointer(w), None, y.data_ptr(), 0)
                                   for w, y in zip(weights, results, strict=True)))
    library.wb_set_threads(threads)
    assert library.wb_linear(products, 3, x.data_ptr(), 7) == 0
    for w, y in zip(matrices, results, strict=True):
        assert torch.equal(y, linear.matmul(x, linear.dense(w), None, torch.float32))


_CHILD = """
import torch
from workbench.kernels.native import linear
from workbench.kernels.sparse_linear import native, packing
w = torch.randn(50, 75).masked_fill(torch.rand(50, 75) < 0.8, 0.0).bfloat16()
x = torch.randn(3, 75).bfloat16()
values, index = packing.pack(w)
assert torch.equal(native.expand(values, index, 50, 75), w)
assert torch.equal(native.matmul(x, values, index, 50), linear.matmul(x, linear.dense(w)))
"""


@needs_library
@pytest.mark.parametrize("isa", ["generic", "avx512_vnni"])
def test_lower_instruction_sets(isa: str) -> None:
    done = subprocess.run([sys.executable, "-c", _CHILD], env={**os.environ, "WORKBENCH_ISA": isa},
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
