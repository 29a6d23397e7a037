"""The Triton kernels: right under the interpreter, and compilable for a GPU that is not here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None,
                                reason="triton is not installed, so its kernels cannot be checked")
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    """Relative RMS error of every kernel and shape, from a process with the interpreter."""
    done = subprocess.run(
        [sys.executable, str(HERE / "interpreted.py")], capture_output=True, text=True, timeout=240,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("kernel", "tolerance", "cases"), [
    ("w4a16", 0.006, 24), ("w8a16", 0.008, 8), ("kv_int8 attend", 0.008, 3),
    ("kv_int8 quantize", 1e-9, 2), ("rmsnorm", 0.006, 10), ("swiglu", 0.008, 5), ("rope", 0.008, 5),
    ("bit_planes", 0.008, 8), ("stream-k", 0.008, 6), ("kivi pack", 1e-9, 5), ("kivi attend", 0.008, 3)])
def test_against_the_reference(errors, kernel: str, tolerance: float, cases: int) -> None:
    mine = {n: e for n, e in errors.items() if n.startswith(kernel)}
    print("\n".join(f"{n}: relative RMS error {e:.2e}" for n, e in mine.items()))
    assert len(mine) >= cases
    assert max(mine.values()) < tolerance


@pytest.mark.slow
def test_compiles_for_hopper(tmp_path: Path) -> None:
    """No GPU is needed to compile; tensor-core instructions must come out."""
    done = subprocess.run(
        [sys.executable, str(HERE / "compiled.py")], capture_output=True, text=True, timeout=280,
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}, cwd=HERE.parents[1])
    if done.returncode == 3:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr[-2000:]
    products = json.loads(done.stdout.splitlines()[-1])
    plain = {n: products.pop(n) for n in list(products) if n.startswith("plain") or n == "kv_int8 quantize"}
    assert len(plain) == 6
    assert not any(plain.values())
    assert len(products) == 12
    assert min(products.values()) >= 1, products
