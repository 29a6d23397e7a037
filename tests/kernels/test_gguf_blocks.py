"""GGUF block formats: bytes against the format's definition, products against float64."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels import native
from workbench.kernels.gguf_blocks import cost, cpu, reference
from workbench.kernels.native import abi, linear

needs_library = pytest.mark.skipif(not native.available(), reason=native.why_not() or "-")
FORMS = list(reference.BLOCKS)


def random_rows(form: str, n: int, blocks: int, seed: int = 0) -> torch.Tensor:
    """Any bytes are codes; the float16 fields get ordinary numbers."""
    size = reference.BLOCKS[form][1]
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (n, blocks, size), generator=generator, dtype=torch.uint8)
    halves = 2 if form == "Q4_K" else 1
    d = (torch.rand(n, blocks, halves, generator=generator) * 0.02).half()
    raw[..., :2 * halves] = d.view(torch.uint8)
    return raw.view(n, -1)


def test_one_block_of_each_by_hand() -> None:
    def row(data: bytes) -> torch.Tensor:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)[None]

    q8 = reference.dequantize(row(struct.pack("<e32b", 0.5, *range(-16, 16))), "Q8_0")[0]
    assert q8.tolist() == [0.5 * v for v in range(-16, 16)]
    nibbles = bytes(i | ((15 - i) << 4) for i in range(16))
    q4 = reference.dequantize(row(struct.pack("<e", 0.25) + nibbles), "Q4_0")[0]
    assert q4.tolist() == [0.25 * (i - 8) for i in range(16)] + [0.25 * (7 - i) for i in range(16)]
    # Scales 1, 2, 3, 4 and 33, 34, 35, 36; minima 5, 6, 7, 8 and 49, 50, 51, 52.
    a, b = [1, 2, 3, 4, 33, 34, 35, 36], [5, 6, 7, 8, 49, 50, 51, 52]
    six = ([a[i] | (a[4 + i] >> 4) << 6 for i in range(4)]
           + [b[i] | (b[4 + i] >> 4) << 6 for i in range(4)]
           + [(a[4 + i] & 15) | (b[4 + i] & 15) << 4 for i in range(4)])
    codes = bytes([0x21] * 32 + [0x43] * 32 + [0x65] * 32 + [0x87] * 32)
    q4k = reference.dequantize(row(struct.pack("<ee", 0.5, 0.125) + bytes(six) + codes), "Q4_K")[0]
    expected = [0.5 * a[i] * (i + 1) - 0.125 * b[i] for i in range(8)]
    assert q4k.view(8, 32)[:, 0].tolist() == expected
    assert (q4k.view(8, 32) == q4k.view(8, 32)[:, :1]).all()


@needs_library
@settings(max_examples=40, deadline=None)
@given(form=st.sampled_from(FORMS), n=st.integers(1, 70), blocks=st.integers(1, 3), m=st.integers(1, 20),
       seed=st.integers(0, 99))
def test_products_match_the_definition(form: str, n: int, blocks: int, m: int, seed: int) -> None:
    raw = random_rows(form, n, blocks, seed)
    stored = cpu.pack(raw, form)
    k = blocks * reference.BLOCKS[form][0]
    assert stored.nbytes == cost.weight_bytes(n, k, form)
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).bfloat16()
    exact = linear.matmul(x, stored.weight(), dtype=torch.float32).double()
    summed = x.double().abs() @ reference.dequantize(raw, form).abs().T
    # Q4_K cancels d a q against m b, so its terms are larger than the weights are.
    # 16-bit integers of x are off by at most half a step of 2^-14 of the power of two above the largest.
    largest, weights = x.double().abs().amax(1, keepdim=True), reference.dequantize(raw, form).abs().sum(1)
    allowed = largest * 2**-14 * 1.01 * weights + 4e-6 * summed + 1e-5
    assert ((exact - reference.matmul(x, raw, form)).abs() <= allowed).all()
    rounded = linear.matmul(x, stored.weight(abi.A8), dtype=torch.float32).double()
    allowed = largest / 253 * weights + 4e-6 * summed + 1e-4
    assert ((rounded - reference.matmul(x, raw, form)).abs() <= allowed).all()
    one = torch.cat([linear.matmul(r[None], stored.weight(), dtype=torch.float32) for r in x])
    assert torch.equal(one.double(), exact)


@needs_library
@pytest.mark.parametrize("form", FORMS)
def test_every_weight_is_the_formats_weight(form: str) -> None:
    """One-hot rows read single weights: equal to the definition to float32's rounding."""
    raw = random_rows(form, 20, 2)
    expected = reference.dequantize(raw, form)
    eye = torch.eye(expected.shape[1]).bfloat16()
    got = linear.matmul(eye, cpu.pack(raw, form).weight(), dtype=torch.float32).double().T
    assert (got - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_what_is_no_block_is_refused() -> None:
    with pytest.raises(ValueError, match="whole blocks of 34"):
        cpu.pack(torch.zeros(2, 35, dtype=torch.uint8), "Q8_0")
    with pytest.raises(ValueError, match="Q8_0, Q4_0, Q4_K"):
        cpu.pack(torch.zeros(2, 34, dtype=torch.uint8), "Q5_1")


def test_costs() -> None:
    assert cost.file_bytes(1, 256, "Q4_K") == 144
    assert cost.weight_bytes(16, 256, "Q4_K") == 16 * 128 + 320
    assert cost.weight_bytes(1, 32, "Q8_0") == 16 * 34
    assert cost.flops(2, 3, 4) == 48
    assert cost.traffic_bytes(1, 16, 32, "Q4_0") == cost.weight_bytes(16, 32, "Q4_0") + 96


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [16, 21])
def test_panels_stand_for_the_files_numbers_exactly(form: str, rows: int) -> None:
    raw = random_rows(form, rows, 3, seed=5).flatten(1)
    assert torch.equal(cpu.dequantize(cpu.pack(raw, form)), reference.dequantize(raw, form).float())
