"""Modules made of given codes multiply by exactly those codes, whatever runs them."""

from __future__ import annotations

import pytest
import torch

from workbench.calibration.grid import Grid
from workbench.calibration.grids import dequantize, round_to_nearest
from workbench.runtime.packed_codes import Int4Codes, Int8Codes, Planes, module_of
from workbench.runtime.packed_fields import Fields

CPU = torch.device("cpu")


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(("rows", "columns", "group"),
                         [(64, 128, 64), (50, 96, 32), (50, 96, 96), (24, 48, 24)])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_forward_and_dequantize_are_those_of_the_codes(bits: int, rows: int, columns: int, group: int,
                                                       symmetric: bool, bias: bool) -> None:
    g = torch.Generator().manual_seed(3)
    weight = torch.randn(rows, columns, generator=g)
    b = torch.randn(rows, generator=g) if bias else None
    q, pairs = round_to_nearest(weight, Grid(bits, group, symmetric))
    module = module_of(q, pairs, bits, b, CPU)
    expected = dequantize(q, pairs, bits)
    assert torch.equal(module.dequantize(), expected)
    x = torch.randn(5, columns, generator=g).to(torch.bfloat16)
    y = x.float() @ expected.T + (0 if b is None else b.to(torch.bfloat16).float())
    assert (module(x).float() - y).norm() / y.norm() < 0.007


def test_which_widths_run_in_which_kernels() -> None:
    weight = torch.randn(32, 64)
    kinds = {}
    for bits, group, symmetric in ((3, 32, False), (4, 64, False), (8, 64, True), (8, 32, True),
                                   (8, 64, False)):
        q, pairs = round_to_nearest(weight, Grid(bits, group, symmetric))
        kinds[bits, group, symmetric] = type(module_of(q, pairs, bits, None, CPU))
    assert kinds == {(3, 32, False): Fields, (4, 64, False): Int4Codes, (8, 64, True): Int8Codes,
                     (8, 32, True): Fields, (8, 64, False): Fields}


@pytest.mark.parametrize("bits", [2, 3, 5])
@pytest.mark.parametrize("group", [32, 16])
def test_every_width_takes_exactly_its_bits(bits: int, group: int) -> None:
    q, pairs = round_to_nearest(torch.randn(32, 64), Grid(bits, group))
    module = module_of(q, pairs, bits, None, CPU)
    assert isinstance(module, Fields if group == 32 else Planes)
    assert module.nbytes == 32 * 64 * bits // 8 + 64 // group * 32 * 4


def test_the_native_module_is_the_one_that_rounding_makes() -> None:
    """The same codes through the other door: bit for bit the same buffers."""
    from workbench.kernels.w4a16_gemm import reference
    from workbench.runtime.packed import Int4

    weight = torch.randn(48, 128)
    direct = Int4(weight, None, 32, False)
    q, pairs = reference.quantize(weight, 32, False)
    ours = module_of(q[:48], pairs[:, :48], 4, None, CPU)
    assert torch.equal(direct.q, ours.q)
    assert torch.equal(direct.pairs, ours.pairs)
    assert direct.kernel == ours.kernel


def test_a_note_is_shown_with_the_kernel() -> None:
    q, pairs = round_to_nearest(torch.randn(16, 64), Grid(4, 64))
    assert module_of(q, pairs, 4, None, CPU, "from a GPTQ file").kernel.endswith("from a GPTQ file")
