"""Block formats: sizes, errors against known figures, the packed bytes, and the argument for each scale."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import SettingsError
from workbench.formats import blocks, catalog, double, elements, packing, scales


def gaussian(rows: int = 256, columns: int = 512) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


@given(st.integers(1, 8), st.integers(1, 70), st.integers(0, 2**31))
@settings(max_examples=60)
def test_packing_is_undone_and_leaves_no_gap(bits: int, columns: int, seed: int) -> None:
    codes = torch.randint(0, 1 << bits, (3, columns), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(seed))
    packed = packing.pack(codes, bits)
    assert packed.shape == (3, -(-columns * bits // 8))
    assert torch.equal(packing.unpack(packed, bits, columns), codes)
    whole = [int.from_bytes(bytes(row.tolist()), "little") for row in packed]
    wanted = [sum(int(c) << (bits * i) for i, c in enumerate(row)) for row in codes]
    assert whole == wanted


@pytest.mark.parametrize(("scale", "plain", "small"), [("e8m0", 18.5, 18.5), ("e4m3", 20.4, 0.0),
                                                       ("ue5m3", 20.4, 20.0), ("fp32", 20.5, 20.5)])
def test_what_a_scale_buys_on_gaussian_numbers(scale: str, plain: float, small: float) -> None:
    """Block 16. Without a tensor scale E4M3 underflows on numbers of 1e-4; UE5M3 does not."""
    form = blocks.Format("x", elements.E2M1, 16, scales.Rule(scale))
    x = gaussian()
    assert blocks.sqnr(x, blocks.fake(x, form)) == pytest.approx(plain, abs=0.2)
    assert blocks.sqnr(x * 1e-4, blocks.fake(x * 1e-4, form)) == pytest.approx(small, abs=0.3)


def test_a_tensor_scale_makes_e4m3_independent_of_the_size_of_numbers() -> None:
    form, x = catalog.format_of("nvfp4"), gaussian()
    assert blocks.sqnr(x * 2**-14, blocks.fake(x * 2**-14, form)) == pytest.approx(
        blocks.sqnr(x, blocks.fake(x, form)), abs=0.01)


@pytest.mark.parametrize("name", catalog.FORMATS)
def test_storing_again_changes_nothing_and_bits_are_counted(name: str) -> None:
    form, x = catalog.format_of(name), gaussian(32, 200)
    held = blocks.quantize(x, form)
    once = held.values()
    if not (form.rule.tensor or form.rule.name == "fp32"):
        assert torch.equal(blocks.fake(once, form), once)
    stored = packing.pack(held.codes, form.element.bits).nbytes + held.scales.nbytes
    assert form.bits_per_weight(200) == pytest.approx(8 * stored / x.numel())
    assert held.values(torch.float64).float().allclose(once, rtol=1e-6, atol=0)


def test_e8m0_scales_are_the_standards_rule() -> None:
    x = torch.tensor([[7.9, 0.1], [8.0, 0.1], [0.0, 0.0]])
    held = blocks.quantize(x, catalog.variant("mxfp4", block=2))
    assert (held.scales.int() - 127).flatten().tolist() == [0, 1, -127]
    assert held.values()[:2, 0].tolist() == [6.0, 8.0]
    assert held.values()[2].tolist() == [0.0, 0.0]


def test_errors_stay_within_half_a_step() -> None:
    form, x = catalog.variant("nf4", scale="fp32"), gaussian(16, 128).double()
    scaled = x.view(16, 2, 64) / x.view(16, 2, 64).abs().amax(-1, keepdim=True)
    error = ((blocks.fake(x, form).view(16, 2, 64) / x.view(16, 2, 64).abs().amax(-1, keepdim=True))
             - scaled).abs()
    assert float(error.max()) <= max(b - a for a, b in zip(elements.NF4_LEVELS, elements.NF4_LEVELS[1:],
                                                           strict=False)) / 2 + 1e-6


def test_blocks_run_along_the_chosen_axis() -> None:
    x = gaussian(64, 32)
    form = catalog.format_of("mxfp4")
    assert torch.equal(blocks.fake(x, form, axis=0), blocks.fake(x.T.contiguous(), form).T)


def test_stochastic_rounding_has_no_bias_where_nearest_has() -> None:
    form = blocks.Format("x", elements.E2M1, 0, scales.Rule("fp32"))
    x = torch.full((1, 64), 2.2)
    x[0, 0] = 6.0  # scale 1: 2.2 lies between 2 and 3
    make = torch.Generator().manual_seed(4)
    draws = torch.stack([blocks.fake(x, form, noise=torch.rand(1, 64, generator=make))[0, 1:]
                         for _ in range(400)])
    assert float(blocks.fake(x, form)[0, 1]) == 2.0
    assert abs(float(draws.mean()) - 2.2) < 4 * float(draws.std()) / draws.numel() ** 0.5
    assert set(draws.unique().tolist()) == {2.0, 3.0}


def test_double_quantization_takes_an_eighth_of_a_bit() -> None:
    s = torch.rand(64, 32, generator=torch.Generator().manual_seed(5)) * 0.02 + 0.01
    held = double.store(s)
    assert held.nbytes == pytest.approx(double.bits_per_scale(s.numel()) / 8 * s.numel(), abs=1)
    assert 4 + double.bits_per_scale(1 << 20) / 64 == pytest.approx(4.127, abs=5e-4)
    assert float((double.load(held) / s - 1).abs().max()) < 0.04


def test_nf4_equals_bitsandbytes() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    x = gaussian(32, 128)
    packed, state = bnb.functional.quantize_4bit(x, blocksize=64, quant_type="nf4")
    theirs = bnb.functional.dequantize_4bit(packed, state)
    ours = blocks.fake(x, catalog.format_of("nf4"))
    assert float((ours != theirs).float().mean()) < 1e-3  # ties and the last bit of a division
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.16 * float(x.abs().max()))


def test_mx_and_nv_codes_equal_torchao() -> None:
    pytest.importorskip("torchao")
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    x = gaussian(32, 128)
    mx = MXTensor.to_mx(x, torch.float4_e2m1fn_x2, 32)
    assert torch.equal(mx.dequantize(torch.float32), blocks.fake(x, catalog.format_of("mxfp4")))
    whole = per_tensor_amax_to_scale(x.abs().max())
    nv = NVFP4Tensor.to_nvfp4(x, per_tensor_scale=whole).dequantize(torch.float32)
    ours = blocks.fake(x, catalog.format_of("nvfp4"))
    assert float((nv - ours).abs().gt(1e-6).float().mean()) < 1e-3


@pytest.mark.parametrize(("call", "says"), [
    (lambda: catalog.format_of("fp3"), "choose one of"),
    (lambda: scales.Rule("e3m4"), "choose one of"),
    (lambda: scales.Rule("e8m0", tensor=True), "no use"),
    (lambda: blocks.quantize(torch.tensor([[1.0, float("nan")]]), catalog.format_of("mxfp4")), "not finite"),
    (lambda: blocks.quantize(torch.ones(2, 2, dtype=torch.int32), catalog.format_of("nf4")), "floating"),
    (lambda: packing.pack(torch.tensor([4], dtype=torch.uint8), 2), "does not fit"),
])
def test_bad_input_is_one_sentence(call, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SettingsError, match=says):
        call()
