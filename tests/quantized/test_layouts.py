"""The packings against slow definitions written number by number, and against the libraries where present."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workbench.errors import ModelError
from workbench.quantized import bits, layouts
from workbench.quantized.scheme import Scheme, config_for, scheme_of


def codes(width: int, rows: int = 16, columns: int = 64, group: int = 32, seed: int = 0) -> layouts.Codes:
    g = torch.Generator().manual_seed(seed)
    q = torch.randint(0, 1 << width, (rows, columns), generator=g).to(torch.uint8)
    scale = (torch.rand(rows, columns // group, generator=g) + 0.01).to(torch.bfloat16).float()
    zero = torch.randint(0, 1 << width, (rows, columns // group), generator=g).to(torch.uint8)
    return q, scale, zero


def numbers(word_list: list[int], width: int, count: int) -> list[int]:
    """From one long integer whose lowest word comes first."""
    whole = sum((w & 0xFFFFFFFF) << (32 * i) for i, w in enumerate(word_list))
    return [whole >> (width * i) & ((1 << width) - 1) for i in range(count)]


@pytest.mark.parametrize("width", range(2, 9))
@pytest.mark.parametrize("count", [1, 10, 32, 96])
def test_words_are_one_long_integer(width: int, count: int) -> None:
    q = codes(width, rows=3, columns=count, group=count)[0]
    words = bits.pack(q, width)
    assert words.dtype == torch.int32
    assert words.shape == (3, -(-count * width // 32))
    for row in range(3):
        assert numbers(words[row].tolist(), width, count) == q[row].tolist()
    assert torch.equal(bits.unpack(words, width, count), q)


@pytest.mark.parametrize("scheme", [
    Scheme("compressed-tensors", 3, 32, False), Scheme("compressed-tensors", 4, 64, True),
    Scheme("gptq", 2, 32, False, "gptq"), Scheme("gptq", 3, 32, False, "gptq"),
    Scheme("gptq", 4, 32, False, "gptq_v2"), Scheme("gptq", 8, 0, False, "gptq"),
    Scheme("awq", 4, 32, False)],
    ids=str)
def test_what_is_written_is_read_back(scheme: Scheme) -> None:
    group = scheme.group or 64
    q, scale, zero = codes(scheme.bits, group=group)
    if scheme.symmetric:
        zero = torch.full_like(zero, 1 << (scheme.bits - 1))
    if scheme.format != "compressed-tensors":  # their scales are float16
        scale = scale.to(torch.float16).float()
    stored = layouts.write((q, scale, zero), scheme)
    found = layouts.read(stored.__getitem__, stored.__contains__, scheme, (16, 64))
    for one, other in zip(found, (q, scale, zero), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_gptq_by_its_definition(width: int) -> None:
    """Columns of a row along a column of ``qweight``; zeros of a group along the rows, less one."""
    q, scale, zero = codes(width, rows=32)
    stored = layouts.write((q, scale, zero), Scheme("gptq", width, 32, False, "gptq"))
    for row in (0, 5, 31):
        assert numbers(stored["qweight"][:, row].tolist(), width, 64) == q[row].tolist()
    for group in range(2):
        less = [(z - 1) % (1 << width) for z in zero[:, group].tolist()]
        assert numbers(stored["qzeros"][group].tolist(), width, 32) == less
    assert stored["scales"].shape == (2, 32)
    assert stored["g_idx"].tolist() == [0] * 32 + [1] * 32


def test_awq_by_its_definition() -> None:
    """Eight rows to a word of a column; nibble i holds row (0 2 4 6 1 3 5 7)[i]."""
    q, scale, zero = codes(4)
    stored = layouts.write((q, scale, zero), Scheme("awq", 4, 32, False))
    assert stored["qweight"].shape == (64, 2)
    for column in (0, 17, 63):
        for block in range(2):
            word = int(stored["qweight"][column, block]) & 0xFFFFFFFF
            for nibble, row in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
                assert word >> 4 * nibble & 15 == int(q[8 * block + row, column])
    word = int(stored["qzeros"][1, 1]) & 0xFFFFFFFF
    assert [word >> 4 * i & 15 for i in range(8)] == [int(zero[8 + r, 1]) for r in (0, 2, 4, 6, 1, 3, 5, 7)]


@pytest.mark.parametrize("width", [3, 4, 8])
def test_compressed_tensors_reads_it(width: int) -> None:
    library = pytest.importorskip("compressed_tensors.compressors.pack_quantized")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    q, scale, zero = codes(width)
    for symmetric in (True, False):
        zeros = torch.full_like(zero, 1 << (width - 1)) if symmetric else zero
        stored = layouts.write((q, scale, zeros), Scheme("compressed-tensors", width, 32, symmetric))
        args = quantization.QuantizationArgs(num_bits=width, type="int", symmetric=symmetric,
                                             strategy="group", group_size=32)
        scheme = quantization.QuantizationScheme(targets=["Linear"], weights=args)
        found = library.PackedQuantizationCompressor.decompress(dict(stored), scheme)["weight"]
        spread = [x.repeat_interleave(32, 1) for x in (scale, zeros.float())]
        expected = (q.float() - spread[1]) * spread[0]
        torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=1e-6)


# -- configs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [
    Scheme("compressed-tensors", 3, 32, False, "pack-quantized"),
    Scheme("compressed-tensors", 4, 0, True, "pack-quantized"), Scheme("gptq", 4, 64, True, "gptq"),
    Scheme("gptq", 8, 0, False, "gptq"), Scheme("awq", 4, 128, False, "gemm")], ids=str)
def test_the_config_says_what_the_scheme_is(scheme: Scheme) -> None:
    config = {"model_type": "llama", "quantization_config": config_for(scheme, ["lm_head"])}
    assert scheme_of(config) == scheme
    assert str(scheme.bits) in scheme.describe()


def test_nothing_quantized_is_no_scheme() -> None:
    assert scheme_of({"model_type": "llama"}) is None


def compressed(**weights: Any) -> dict[str, Any]:
    base = config_for(Scheme("compressed-tensors", 4, 32, True, "pack-quantized"), [])
    base["config_groups"]["group_0"]["weights"].update(weights)
    return base


EIGHT = compressed()
EIGHT["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8}


@pytest.mark.parametrize(("config", "message"), [
    ({"quant_method": "bitsandbytes"}, "'bitsandbytes', which is not read here"),
    ({"quant_method": "gptq", "bits": 16}, "bits=16; 2 to 8 bits"),
    ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "packed as 'marlin'"),
    ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "packed as 'gemv'"),
    ({"quant_method": "awq", "bits": 3}, "3 bits; only 4"),
    (EIGHT, "quantized activations"),
    (compressed(type="float"), "float weights"),
    (compressed(strategy="tensor"), "strategy 'tensor'")])
def test_other_schemes_are_one_sentence(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        scheme_of({"quantization_config": config})


def test_columns_in_another_order_are_put_in_runs() -> None:
    scheme = Scheme("gptq", 4, 32, False, "gptq")
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0)) % 2
    found = layouts.order(shuffled, scheme, 64)
    assert found is not None
    assert shuffled[found].tolist() == [0] * 32 + [1] * 32
    assert layouts.order(torch.arange(64) // 32, scheme, 64) is None
    assert layouts.order(torch.full((64,), -1), scheme, 64) is None
    with pytest.raises(ModelError, match="do not have 32 columns each"):
        layouts.order((torch.arange(64) > 20).int(), scheme, 64)
