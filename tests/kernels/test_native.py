"""The native library: products against float64, the same bits for every number of rows, the pool."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels import native
from workbench.kernels.native import abi, build, linear, panels
from workbench.kernels.w4a16_gemm import launch as launch4
from workbench.kernels.w4a16_gemm import reference as four
from workbench.kernels.w8a16_gemm import launch as launch8
from workbench.kernels.w8a16_gemm import reference as eight

needs_library = pytest.mark.skipif(not native.available(), reason=native.why_not() or "-")
#: float32 sums of a few hundred products; 8-bit activations are steps of the block's largest / 127, 16-bit
#: ones beside quantized weights of 2^-14 of the power of two above it.
EXACT, ROUNDED, STEP8, STEP16 = 1e-6, 0.02, 1 / 127, 2.0**-13
KINDS = ["bf16", "int8", "int8 a8", "int4", "int4 a8"]
FN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)


def made(kind: str, w: torch.Tensor, group: int = 64, symmetric: bool = False
         ) -> tuple[abi.Weight, torch.Tensor, object]:
    """(stored weight, the matrix that it stands for in float64, what must stay alive)."""
    n, k = w.shape
    activations = abi.A8 if kind.endswith("a8") else abi.A16
    if kind == "bf16":
        dense = w.bfloat16()
        return linear.dense(dense), dense.double(), dense
    if kind.startswith("int8"):
        q8, scale = launch8.quantize_and_pack(w, native=True)
        expected = eight.dequantize(*eight.quantize(w), torch.float64)
        return linear.octets(q8, scale, n, k, activations=activations), expected, (q8, scale)
    q4, pairs = launch4.quantize_and_pack(w, group, symmetric, native=True)
    expected = four.dequantize(*four.quantize(w, group, symmetric), torch.float64)[:n, :k]
    return linear.nibbles(q4, pairs, n, k, group, activations=activations), expected, (q4, pairs)


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm().clamp(min=1e-30))


@needs_library
@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), m=st.integers(1, 40), n=st.integers(1, 100),
       k=st.integers(1, 300), group=st.sampled_from([32, 64, 128]), symmetric=st.booleans(),
       bias=st.booleans(), seed=st.integers(0, 99))
def test_every_shape_matches_the_dequantized_reference(kind, m, n, k, group, symmetric, bias,
                                                       seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, k, generator=generator) * 0.05 + 0.01
    x = torch.randn(m, k, generator=generator).bfloat16()
    b = torch.randn(n, generator=generator) if bias else None
    weight, expected, kept = made(kind, w, group, symmetric)
    y = linear.matmul(x, weight, b, torch.float32)
    product = x.double() @ expected.T
    # Cancelled sums have large relative errors: compare with what was summed. Rounding of x is off by at most
    # half a step, times the weights.
    allowed = EXACT * (x.double().abs() @ expected.abs().T + 1e-6)
    if kind != "bf16":
        step = STEP8 if kind.endswith("a8") else STEP16
        allowed = allowed + x.double().abs().amax(1, keepdim=True) * step * 0.502 * expected.abs().sum(1)
    assert ((y.double() - product - (0 if b is None else b.double())).abs() <= allowed + 1e-6).all()
    assert kept is not None


@needs_library
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), [(384, 384), (130, 1000), (16, 5632)])
def test_a_row_has_the_same_bits_however_many_rows_there_are(kind: str, n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(n, k, generator=generator), torch.randn(530, k, generator=generator).bfloat16()
    weight, _, kept = made(kind, w)
    alone = torch.cat([linear.matmul(row[None], weight, dtype=torch.float32) for row in x[:20]])
    for m in (2, 3, 7, 8, 15, 16, 17, 33, 530):
        assert torch.equal(linear.matmul(x[:m], weight, dtype=torch.float32)[:20], alone[:m])
    assert kept is not None


@needs_library
@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), m=st.integers(1, 100), n=st.integers(1, 100),
       k=st.integers(1, 700), group=st.sampled_from([32, 64, 128]), symmetric=st.booleans(),
       seed=st.integers(0, 99))
def test_rows_of_a_prompt(kind, m, n, k, group, symmetric, seed) -> None:
    """Weights may be rounded to bfloat16, and activations as the scheme says, but no more than that; and a
    row has the same bits in every chunk."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, k, generator=generator) * 0.05 + 0.01
    x = torch.randn(m, k, generator=generator).bfloat16()
    bias = torch.randn(n, generator=generator)
    weight, expected, kept = made(kind, w, group, symmetric)
    y = linear.matmul(x, weight, bias, torch.float32, prompt=True)
    size = x.double().abs() @ expected.abs().T
    allowed = size * (EXACT if kind == "bf16" else 2.0**-8) + 1e-6
    if kind.endswith("a8") and native.isa() != "amx":
        allowed += x.double().abs().amax(1, keepdim=True) * STEP8 * 0.502 * expected.abs().sum(1)
    assert ((y.double() - x.double() @ expected.T - bias.double()).abs() <= allowed).all()
    half = linear.matmul(x[m // 2:], weight, bias, torch.float32, prompt=True)
    assert torch.equal(half, y[m // 2:])
    assert kept is not None


@needs_library
@pytest.mark.parametrize("kind", ["int8", "int4", "int4 a8"])
@pytest.mark.parametrize(("n", "k"), [(130, 1000), (272, 5632)])
def test_a_long_prompt(kind: str, n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(n, k, generator=generator), torch.randn(530, k, generator=generator).bfloat16()
    weight, expected, kept = made(kind, w)
    whole = linear.matmul(x, weight, dtype=torch.float32, prompt=True)
    rounded = kind.endswith("a8") and native.isa() != "amx"
    assert error(whole, x.double() @ expected.T) < (ROUNDED if rounded else 2.0**-8)
    for first, last in ((0, 1), (3, 40), (200, 530)):
        part = linear.matmul(x[first:last], weight, dtype=torch.float32, prompt=True)
        assert torch.equal(part, whole[first:last])
    assert kept is not None


@needs_library
@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_the_number_of_threads(kind: str) -> None:
    weight, _, kept = made(kind, torch.randn(700, 512))
    x, before = torch.randn(9, 512).bfloat16(), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(linear.matmul(x, weight))
            assert native.library().wb_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(y, found[0]) for y in found)
    assert kept is not None


@needs_library
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_large_and_tiny_activations(kind: str) -> None:
    """Integers of x have scales of a wide range of exponents; what has no number gives none."""
    weight, expected, kept = made(kind, torch.randn(32, 128))
    for scale in (1e-30, 1e-10, 1.0, 1e6):
        x = (torch.randn(3, 128, generator=torch.Generator().manual_seed(0)) * scale).bfloat16()
        assert error(linear.matmul(x, weight, dtype=torch.float32), x.double() @ expected.T) < 5e-5
    assert not linear.matmul(torch.zeros(2, 128).bfloat16(), weight).any()
    for odd in (float("nan"), float("inf")):
        x = torch.ones(3, 128).bfloat16()
        x[1, 77] = odd
        assert (~linear.matmul(x, weight).isfinite()).any(1).tolist() == [False, True, False]
    assert kept is not None


@needs_library
@pytest.mark.parametrize("isa", ["avx512_vnni", "avx512", "avx2", "generic"])
def test_the_other_instruction_sets(isa: str) -> None:
    """The same tests in a process that may use less."""
    code = ("import torch, sys; from workbench.kernels import native; sys.path.insert(0, sys.argv[1]);"
            "import test_native as t; torch.manual_seed(0); w = torch.randn(50, 200);"
            "x = torch.randn(18, 200).bfloat16()\n"
            "for kind in t.KINDS:\n"
            "    weight, expected, kept = t.made(kind, w, 32)\n"
            "    y = t.linear.matmul(x, weight, dtype=torch.float32)\n"
            "    assert t.error(y, x.double() @ expected.T) < (t.ROUNDED if 'a8' in kind else 5e-5)\n"
            "    one = torch.cat([t.linear.matmul(r[None], weight, dtype=torch.float32) for r in x])\n"
            "    assert torch.equal(one, y), kind\n"
            "print(native.isa())")
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], text=True,
                          capture_output=True, timeout=120, env={**os.environ, "WORKBENCH_ISA": isa})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() in ("avx512_vnni", "avx512", "avx2", "generic")


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 4), columns=st.integers(1, 9), seed=st.integers(0, 99))
def test_panels_come_back(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(0, 16, (16 * rows, 32 * columns), generator=generator, dtype=torch.uint8)
    assert torch.equal(panels.unpack_nibbles(panels.pack_nibbles(q)), q)
    b = torch.randint(-128, 128, (16 * rows, 64 * columns), generator=generator, dtype=torch.int8)
    assert torch.equal(panels.unpack_bytes(panels.pack_bytes(b)), b)
    s = torch.randn(columns, 16 * rows, 2, generator=generator)
    assert torch.equal(panels.unpack_scales(panels.pack_scales(s)), s)


@needs_library
def test_unknown_weights_are_refused() -> None:
    weight, _, kept = made("int4", torch.randn(16, 64))
    weight.group = 48
    with pytest.raises(RuntimeError, match="does not know"):
        linear.matmul(torch.zeros(1, 64).bfloat16(), weight)
    with pytest.raises(ValueError, match="bfloat16"):
        linear.matmul(torch.zeros(1, 64), weight)
    assert kept is not None


# -- the pool ----------------------------------------------------------------------------------------


@needs_library
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 100, 1000])
def test_every_chunk_runs_once(threads: int, n: int) -> None:
    library, seen, lock = native.library(), [], threading.Lock()

    def chunk(_: object, index: int) -> None:
        with lock:
            seen.append(index)

    library.wb_set_threads(threads)
    library.wb_parallel.argtypes = [ctypes.c_int, FN, ctypes.c_void_p]
    for _ in range(5):
        seen.clear()
        library.wb_parallel(n, FN(chunk), None)
        assert sorted(seen) == list(range(n))


@needs_library
def test_a_slow_thread_holds_only_its_own_chunk() -> None:
    """While one chunk sleeps, all the others are done by the rest."""
    library, done = native.library(), []
    library.wb_set_threads(2)
    library.wb_parallel.argtypes = [ctypes.c_int, FN, ctypes.c_void_p]

    def chunk(_: object, index: int) -> None:
        if index == 3:
            time.sleep(0.3)
        done.append((index, time.perf_counter()))

    began = time.perf_counter()
    library.wb_parallel(64, FN(chunk), None)
    late = [i for i, t in done if t - began > 0.25]
    assert late == [3]


@needs_library
def test_callers_from_several_threads_and_from_inside() -> None:
    weight, _, kept = made("int4", torch.randn(256, 256))
    x = torch.randn(4, 256).bfloat16()
    expected, wrong = linear.matmul(x, weight), []

    def many() -> None:
        for _ in range(200):
            if not torch.equal(linear.matmul(x, weight), expected):
                wrong.append(1)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(t.is_alive() for t in threads)
    assert kept is not None


@needs_library
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are lent cores on Linux only")
def test_beside_busy_processes_results_and_cores_stay() -> None:
    """Threads that were moved to help one another may run anywhere again; nothing is lost or done twice."""
    library, cores = native.library(), len(os.sched_getaffinity(0))
    library.wb_set_threads(cores)
    weight, _, kept = made("int4", torch.randn(4096, 1024))
    x = torch.randn(4, 1024).bfloat16()
    expected, allowed = linear.matmul(x, weight), os.sched_getaffinity(0)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            assert torch.equal(linear.matmul(x, weight), expected)
    finally:
        for other in others:
            other.kill()
            other.wait()
    linear.matmul(x, weight)
    threads = [int(t) for t in os.listdir("/proc/self/task")]
    assert all(os.sched_getaffinity(t) == allowed for t in threads)
    assert kept is not None


@needs_library
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_makes_its_own_threads() -> None:
    code = """
        import os, torch
        from workbench.kernels import native
        from workbench.kernels.native import linear
        torch.set_num_threads(2)
        w = torch.randn(4096, 512).bfloat16(); weight = linear.dense(w)
        x = torch.randn(3, 512).bfloat16()
        before = linear.matmul(x, weight)
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(linear.matmul(x, weight), before) else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert torch.equal(linear.matmul(x, weight), before)
    """
    import textwrap

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=60, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr


def test_importing_starts_no_thread_and_opens_nothing() -> None:
    code = ("import threading, os; import workbench.kernels.native as n; assert not n._open.cache_info()"
            ".currsize; print(len(os.listdir('/proc/self/task')) if os.path.isdir('/proc/self/task') else 1)")
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60)
    assert done.stdout.strip() == "1", done.stderr


# -- the build ---------------------------------------------------------------------------------------


def test_turned_off_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_NATIVE", "0")
    assert not native.available()
    assert "WORKBENCH_NATIVE=0" in native.why_not()
    with pytest.raises(RuntimeError, match="turned off"):
        native.library()


def test_no_compiler_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.BuildError, match="install g\\+\\+ or clang\\+\\+"):
        build.build(tmp_path / "x.so")


def test_packed_modules_without_the_library_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.errors import SettingsError
    from workbench.settings import Settings

    monkeypatch.setenv("WORKBENCH_NATIVE", "0")
    for name in ("int8", "int4"):
        module = Settings().with_(weights=name).weights.pack(torch.randn(32, 64), None)
        assert "WORKBENCH_NATIVE=0" in module.kernel
        assert module.native_weight is None
        with pytest.raises(SettingsError, match="8-bit activations need"):
            Settings().with_(weights=f"{name}(activations=int8)").weights.pack(
                torch.randn(32, 64), None)


def test_a_library_with_other_headers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if not native.path().exists():
        pytest.skip("no library")
    monkeypatch.delenv("WORKBENCH_NATIVE", raising=False)
    native._open.cache_clear()
    monkeypatch.setattr(build, "digest", lambda files: "another")
    try:
        assert "older than their headers" in native.why_not()
    finally:
        native._open.cache_clear()


@needs_library
@pytest.mark.skipif(native.isa() != "amx", reason="needs a matrix unit")
def test_vectors_and_the_matrix_unit_sum_the_same_integers() -> None:
    code = ("import torch, sys; sys.path.insert(0, sys.argv[1]); import test_native as t\n"
            "g = torch.Generator().manual_seed(0); w = torch.randn(70, 512, generator=g)\n"
            "x = torch.randn(24, 512, generator=g).bfloat16()\n"
            "for kind in t.KINDS[1:]:\n"
            "    print(t.linear.matmul(x, t.made(kind, w)[0], dtype=torch.float32).double().sum().item(),"
            " end=' ')")
    found = [subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], text=True, check=True,
                            capture_output=True, timeout=120, env={**os.environ, "WORKBENCH_ISA": isa}
                            ).stdout for isa in ("amx", "avx512_vnni")]
    assert len(found[0].split()) == 4
    assert found[0] == found[1]
