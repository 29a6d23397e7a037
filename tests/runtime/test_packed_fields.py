"""Modules over codes: the bytes mean the codec's numbers exactly, with and without the library."""

from __future__ import annotations

import pytest
import torch

from workbench.errors import SettingsError
from workbench.formats import bfp, blocks, catalog, elements
from workbench.formats.blocks import Format
from workbench.formats.scales import Rule
from workbench.kernels import native
from workbench.runtime import pack_formats
from workbench.settings import Settings

SHAPE = (50, 200)


def matrix() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * 0.02


@pytest.mark.parametrize(("text", "form"), [
    ("mxfp4", catalog.format_of("mxfp4")),
    ("nvfp4", catalog.format_of("nvfp4")),
    ("nvfp4(scale=ue5m3)", catalog.format_of("ue5m3")),
    ("bfp(mantissa=4,block=32)", bfp.format_of(4, 32)),
    ("bfp(mantissa=6,block=64)", bfp.format_of(6, 64)),
    ("fp8(scale=block)", Format("fp8", elements.E4M3, 32, Rule("e8m0"))),
])
def test_the_packed_bytes_mean_what_the_codec_says(text: str, form: Format) -> None:
    module = Settings().with_(weights=text).weights.pack(matrix(), None)
    assert torch.equal(module.dequantize(), blocks.fake(matrix(), form))


def test_nf4_is_its_codec_up_to_levels_and_scales() -> None:
    module = pack_formats.normal_float(matrix(), None, 64)
    exact = blocks.fake(matrix(), catalog.format_of("nf4"))
    away = (module.dequantize() - exact).abs()
    assert blocks.sqnr(matrix(), module.dequantize()) > blocks.sqnr(matrix(), exact) - 0.1
    assert float((away > 0.02 * matrix().abs().amax()).float().mean()) < 0.02


@pytest.mark.parametrize("text", ["rtn(bits=2)", "rtn(bits=3)", "rtn(bits=5)", "nf4", "mxfp4", "nvfp4", "fp8",
                                  "bfp", "bipolar"])
def test_without_the_library_the_same_matrix_is_multiplied(text: str, monkeypatch: pytest.MonkeyPatch
                                                           ) -> None:
    technique = Settings().with_(weights=text).weights
    usual = technique.pack(matrix(), None)
    x = torch.randn(3, SHAPE[1], generator=torch.Generator().manual_seed(1)).bfloat16()
    with_library = usual(x)
    monkeypatch.setenv("WORKBENCH_NATIVE", "0")
    plain = technique.pack(matrix(), None)
    assert torch.equal(usual.dequantize(), plain.dequantize())
    assert "expanded" in plain.kernel
    assert "WORKBENCH_NATIVE=0" in plain.kernel
    torch.testing.assert_close(with_library.float(), plain(x).float(), rtol=0.02, atol=2e-3)
    assert plain.nbytes == usual.nbytes


def test_w8a8_is_emulated_without_the_library_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, SHAPE[1], generator=torch.Generator().manual_seed(2)).bfloat16()
    real = Settings().with_(weights="w8a8").weights.pack(matrix(), None)(x)
    monkeypatch.setenv("WORKBENCH_NATIVE", "0")
    emulated = Settings().with_(weights="w8a8").weights.pack(matrix(), None)
    assert "emulated" in emulated.kernel
    torch.testing.assert_close(real.float(), emulated(x).float(), rtol=0.03, atol=2e-3)


@pytest.mark.parametrize(("fewer", "more"), [(2, 3), (3, 4), (4, 5), (5, 6), (6, 7)])
def test_a_bit_more_is_a_bit_stored_and_about_six_decibels(fewer: int, more: int) -> None:
    low, high = (pack_formats.integers(matrix(), None, b, 64) for b in (fewer, more))
    assert high.nbytes - low.nbytes == 64 * 256 // 8  # padded rows and columns, one bit each
    gain = blocks.sqnr(matrix(), high.dequantize()) - blocks.sqnr(matrix(), low.dequantize())
    assert 5 < gain < 9


def test_numbers_that_are_not_finite_are_refused() -> None:
    broken = matrix()
    broken[3, 5] = float("nan")
    for text in ("rtn", "nf4", "mxfp4", "fp8", "bfp", "bipolar"):
        with pytest.raises(SettingsError, match="not finite"):
            Settings().with_(weights=text).weights.pack(broken, None)


@pytest.mark.skipif(not native.available(), reason=native.why_not() or "-")
@pytest.mark.parametrize(("text", "name"), [("nf4", "fields"), ("rtn", "fields"), ("fp8", "float8")])
def test_profilers_see_the_product_by_name(text: str, name: str) -> None:
    module = Settings().with_(weights=text).weights.pack(matrix(), torch.zeros(SHAPE[0]))
    x = torch.randn(2, 3, SHAPE[1]).bfloat16()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        assert module(x).shape == (2, 3, SHAPE[0])
    assert f"workbench::{name}_matmul" in {e.name for e in profile.events()}
