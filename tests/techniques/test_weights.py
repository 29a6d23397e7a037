"""Weights: every method keeps the family's contract, and its error is what its bits allow."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from workbench.kernels import native
from workbench.settings import Settings
from workbench.techniques.base import family
from workbench.techniques.weights import Weights

METHODS = list(family("weights").values())


def variants() -> list[Weights]:
    """Every method, and every value of its enumerated controls that can run here."""
    found = [c() for c in METHODS]
    found += [c(**{k.name: v}) for c in METHODS for k in c.controls() if k.choices
              for v in k.choices if v != k.default and (k.name != "activations" or native.available())]
    return found


@pytest.mark.parametrize("technique", variants(), ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(64, 128), (63, 60), (1, 1), (123, 257)])
def test_storage_bytes_are_the_allocated_bytes(technique: Weights, rows: int, columns: int) -> None:
    packed = technique.pack(torch.randn(rows, columns), None)
    assert packed.nbytes == technique.storage_bytes(rows, columns)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in (*packed.buffers(), *packed.parameters())}
    assert sum(storages.values()) == packed.nbytes  # nothing larger is kept alive behind a view


@pytest.mark.parametrize("technique", variants(), ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lead", [(1,), (5,), (2, 3), (2, 40)])
def test_forward_multiplies_by_what_dequantize_shows(technique: Weights, bias: bool,
                                                     lead: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight, b = torch.randn(63, 60) * 0.05, torch.randn(63) if bias else None
    packed = technique.pack(weight, b)
    x = torch.randn(*lead, 60, dtype=getattr(torch, technique.compute_dtype))
    got = packed(x)
    expected = x.double() @ packed.dequantize().double().T + (0 if b is None else b.double())
    assert got.shape == (*lead, 63)
    assert got.dtype == x.dtype
    error = (got.double() - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    print(f"{technique}: relative RMS error {error:.2e}")
    # 8-bit activations: steps of largest / 127 by block are about 0.006 of their RMS.
    rounded = getattr(technique, "activations", "bf16") == "int8"
    if not technique.exact_products:  # L-Mul: 8 % rms of single products, 14 % at two bits
        assert 0.007 < error < 0.25
        return
    assert error < (1e-6 if technique.compute_dtype == "float32" else 0.015 if rounded else 0.007)
    assert packed.kernel


@pytest.mark.parametrize(("text", "least_db"), [
    ("fp32", 1000), ("bf16", 50), ("int8", 38), ("int4(group=32)", 20), ("int4(group=128)", 17.5)])
def test_signal_to_noise_of_gaussian_weights(text: str, least_db: float) -> None:
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(0)) * 0.02
    packed = Settings().with_(weights=text).weights.pack(weight, None)
    noise = (packed.dequantize() - weight).pow(2).mean()
    decibels = 1000.0 if noise == 0 else float(10 * torch.log10(weight.pow(2).mean() / noise))
    print(f"{text}: {decibels:.1f} dB")
    assert decibels >= least_db


def test_fewer_bits_are_fewer_bytes() -> None:
    sizes = [Settings().with_(weights=w).weights.storage_bytes(1024, 1024)
             for w in ("fp32", "bf16", "int8", "int4(group=32)", "int4(group=64)", "int4(group=128)")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("cls", METHODS, ids=lambda c: c.name())
def test_metadata(cls: type[Weights]) -> None:
    assert cls.title
    assert cls.paper.cite
    assert cls.claim.text
    assert cls.lossless == (cls.name() in ("bf16", "fp32"))
    assert dataclasses.is_dataclass(cls)
    assert cls().compute_dtype in ("bfloat16", "float32")


def test_packing_does_not_keep_the_original_alive() -> None:
    import weakref

    weight = torch.randn(128, 128)
    gone = weakref.ref(weight)
    kept = [t.pack(weight, None) for t in variants() if t.name() in ("int8", "int4")]
    del weight
    assert gone() is None
    assert kept
