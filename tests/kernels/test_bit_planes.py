"""Any width: planes come back, the error falls with the width, the bipolar reading is the same numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.kernels.bit_planes import cost, planes, reference


@given(bits=st.integers(1, 8), n=st.integers(1, 9), k=st.integers(1, 6), seed=st.integers(0, 99))
def test_planes_come_back(bits: int, n: int, k: int, seed: int) -> None:
    q = torch.randint(
        0, 2**bits, (n, 8 * k), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    packed = planes.pack(q, bits)
    assert torch.equal(planes.unpack(packed), q)
    assert packed.nbytes == n * k * bits == cost.weight_bytes(n, 8 * k, bits, 8 * k) - 4 * n


def test_the_error_falls_with_every_bit() -> None:
    w = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    errors = [
        float((reference.dequantize(*reference.quantize(w, b, 64), b) - w).norm() / w.norm())
        for b in range(1, 9)
    ]
    assert all(a > 1.5 * b for a, b in itertools.pairwise(errors[1:]))
    assert 0.55 < errors[0] < 0.65  # one bit of a normal distribution: sqrt(1 - 2 / pi) = 0.603
    assert errors[-1] < 0.006


@pytest.mark.parametrize("bits", range(1, 9))
def test_bipolar_bits_are_the_same_numbers(bits: int) -> None:
    w = torch.randn(8, 64, generator=torch.Generator().manual_seed(bits))
    q, pairs = reference.quantize(w, bits, 32)
    s, z = pairs.double().permute(1, 0, 2).unbind(-1)
    signed = reference.bipolar(q, bits)
    assert (signed % 2 != 0).all()
    assert int(signed.abs().max()) <= 2**bits - 1
    shift = s * (2**bits - 1 - 2 * 2 ** (bits - 1)) / 2
    same = (signed.view(8, 2, 32) * (s / 2)[..., None] + (z + shift)[..., None]).view(8, 64)
    assert torch.allclose(same, reference.dequantize(q, pairs, bits))
    with pytest.raises(ValueError, match="1 to 8"):
        reference.quantize(w, 9, 32)
