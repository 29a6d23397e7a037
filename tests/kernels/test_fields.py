"""Products over codes of any width: every instruction set against float64, rows that do not depend on each
other, and the layout undone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.formats import elements
from workbench.kernels import native
from workbench.kernels.native import abi, fields, linear

needs_library = pytest.mark.skipif(not native.available(), reason=native.why_not() or "-")
SCALES = {"e8m0": abi.SCALE_E8M0, "e4m3": abi.SCALE_E4M3, "ue5m3": abi.SCALE_UE5M3}
#: What rounding x to 16-bit integers by block may cost.
BOUND = 2.0**-13
#: Weights of a prompt's rows may be rounded to bfloat16.
PROMPT = 2.0**-8


def draw(shape: tuple[int, ...], low: int, high: int, seed: int) -> torch.Tensor:
    return torch.randint(low, high, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=50, deadline=None)
def test_fields_are_undone_and_take_their_bits(bits: int, panels: int, steps: int, seed: int) -> None:
    codes = draw((16 * panels, 32 * steps), 0, min(255, (1 << bits) - 1) + (bits < 8), seed)
    packed = fields.pack(codes, bits)
    assert packed.numel() * 8 == codes.numel() * bits
    assert torch.equal(fields.unpack(packed, bits), codes)


def pairs_case(bits: int, group: int, n: int, k: int, seed: int) -> tuple[abi.Weight, torch.Tensor]:
    rows, columns = -(-n // 16) * 16, -(-k // group) * group
    codes = draw((rows, columns), 0, (1 << bits) - 1, seed)
    make = torch.Generator().manual_seed(seed)
    pairs = torch.randn(columns // group, rows, 2, generator=make).bfloat16()
    from workbench.kernels.native import panels

    weight = linear.fields(fields.pack(codes, bits), panels.pack_scales(pairs), n, k, group, bits,
                           abi.SCALE_PAIR, middle=float(1 << (bits - 1)))
    wide = pairs.double().repeat_interleave(group, 0).permute(1, 0, 2)
    whole = (codes.double() - (1 << (bits - 1))) * wide[..., 0] + wide[..., 1]
    return weight, whole[:n, :k]


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm().clamp(min=1e-30))


@needs_library
@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 8), group=st.sampled_from([32, 64, 128]), m=st.integers(1, 40),
       n=st.integers(1, 70), k=st.integers(1, 300), seed=st.integers(0, 99))
def test_every_width_matches_float64(bits: int, group: int, m: int, n: int, k: int, seed: int) -> None:
    weight, whole = pairs_case(bits, group, n, k, seed)
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(seed + 1)).bfloat16()
    away = (linear.matmul(x, weight, dtype=torch.float32).double() - x.double() @ whole.T).abs()
    assert bool((away <= BOUND * (x.double().abs().amax(1, keepdim=True) * whole.abs().sum(1)) + 1e-12).all())
    away = (linear.matmul(x, weight, dtype=torch.float32, prompt=True).double() - x.double() @ whole.T).abs()
    assert bool((away <= PROMPT * (x.double().abs() @ whole.abs().T) + 1e-6).all())


@needs_library
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("group", [16, 32, 64])
@pytest.mark.parametrize("m", [1, 3, 40])
def test_looked_up_levels_with_one_byte_scales(scale: str, group: int, m: int) -> None:
    codes, levels = draw((32, 192), 0, 16, 1), draw((16,), 0, 255, 2)
    low, high = {"e8m0": (100, 140), "e4m3": (0, 127), "ue5m3": (0, 255)}[scale]
    stored = draw((32, 192 // group), low, high, 3)
    factor = torch.exp2(stored.double() - 127) if scale == "e8m0" else elements.decode(
        stored, elements.E4M3 if scale == "e4m3" else elements.UE5M3, torch.float64)
    whole = (levels[codes.long()].double() - 12) * 0.25 * factor.repeat_interleave(group, 1)
    weight = linear.fields(fields.pack(codes, 4), fields.pack_bytes(stored), 29, 181, group, 4, SCALES[scale],
                           0.25, 12.0, levels)
    x = torch.randn(m, 181, generator=torch.Generator().manual_seed(4)).bfloat16()
    got = linear.matmul(x, weight, dtype=torch.float32)
    assert error(got, x.double() @ whole[:29, :181].T) < BOUND
    got = linear.matmul(x, weight, dtype=torch.float32, prompt=True)
    assert error(got, x.double() @ whole[:29, :181].T) < PROMPT


@needs_library
@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
@pytest.mark.parametrize("m", [1, 17])
def test_eight_bit_floats_of_every_code(kind: str, m: int) -> None:
    element = elements.E4M3 if kind == "e4m3" else elements.E5M2
    finite = torch.tensor([i for i, v in enumerate(element.levels) if v is not None], dtype=torch.uint8)
    codes = finite[torch.randint(len(finite), (32, 512), generator=torch.Generator().manual_seed(0))]
    codes[0, :len(finite)] = finite
    scale = torch.rand(32, generator=torch.Generator().manual_seed(1)).bfloat16()
    weight = linear.float8(fields.pack(codes, 8), scale, 32, 512, 0, getattr(abi, kind.upper()),
                           abi.SCALE_ROW)
    eye = torch.eye(512).bfloat16()
    whole = elements.decode(codes, element) * scale.float()[:, None]
    assert torch.equal(linear.matmul(eye, weight, dtype=torch.float32), whole.T)  # every number by itself
    x = torch.randn(m, 512, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert error(linear.matmul(x, weight, dtype=torch.float32), x.double() @ whole.double().T) < 1e-6
    got = linear.matmul(x, weight, dtype=torch.float32, prompt=True)
    assert error(got, x.double() @ whole.double().T) < PROMPT


@needs_library
@pytest.mark.parametrize("bits", [2, 3, 4, 7])
def test_a_row_has_the_same_bits_in_any_company(bits: int) -> None:
    weight, _ = pairs_case(bits, 64, 48, 192, 5)
    x = torch.randn(40, 192, generator=torch.Generator().manual_seed(6)).bfloat16()
    together = linear.matmul(x, weight, dtype=torch.float32)
    for rows in (1, 2, 3, 17):
        assert torch.equal(linear.matmul(x[:rows], weight, dtype=torch.float32), together[:rows])


@needs_library
def test_scales_that_are_stored_twice() -> None:
    codes, stored = draw((16, 2560), 0, 16, 7), draw((16, 40), 0, 126, 8)
    second, mean = torch.rand(1, 3), torch.rand(1, 3) * 50
    packed = fields.pack_double(stored, second, mean)
    back = fields.unpack_double(packed)
    assert all(torch.equal(a, b) for a, b in zip(back, (stored, second, mean), strict=True))
    assert packed.shape[1] == fields.double_bytes(40)
    wide = [t.double().repeat_interleave(16, 1)[:, :40] for t in (second, mean)]
    factor = (elements.decode(stored, elements.E4M3, torch.float64) * wide[0] + wide[1]).clamp(min=0)
    levels = draw((16,), 0, 255, 9)
    whole = (levels[codes.long()].double() - 100) * factor.repeat_interleave(64, 1)
    weight = linear.fields(fields.pack(codes, 4), packed, 16, 2560, 64, 4, abi.SCALE_DOUBLE, 1.0, 100.0,
                           levels)
    x = torch.randn(3, 2560, generator=torch.Generator().manual_seed(10)).bfloat16()
    assert error(linear.matmul(x, weight, dtype=torch.float32), x.double() @ whole.T) < BOUND
    assert error(linear.matmul(x, weight, dtype=torch.float32, prompt=True), x.double() @ whole.T) < PROMPT


@needs_library
@pytest.mark.parametrize("wrong", [{"bits": 9}, {"bits": 0}, {"group": 16, "bits": 3}, {"group": 24}])
def test_what_the_library_does_not_know_is_refused(wrong: dict[str, int]) -> None:
    weight, _ = pairs_case(3, 64, 16, 64, 0)
    for name, value in wrong.items():
        setattr(weight, name, value)
    with pytest.raises(RuntimeError, match="does not know"):
        linear.matmul(torch.zeros(1, 64, dtype=torch.bfloat16), weight)


@needs_library
@pytest.mark.parametrize("isa", ["avx512_vnni", "avx2", "generic"])
def test_other_instruction_sets_agree(isa: str) -> None:
    """The same tests in a process that may use less."""
    code = ("import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-k', "
            "'levels or eight or twice', sys.argv[1]]))")
    done = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "WORKBENCH_ISA": isa, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-3000:]
