"""Run as a program with TRITON_INTERPRET=1: every Triton kernel against its float64 reference.

Prints one JSON object: name -> relative RMS error. The interpreter must be chosen before Triton is
imported, hence the process of its own. It cuts bfloat16 results instead of rounding them, so errors
are about twice those of a GPU.
"""

from __future__ import annotations

import json
import random

import torch

from workbench.kernels.kv_int8 import gpu as kv
from workbench.kernels.kv_int8 import reference as kv_reference
from workbench.kernels.w4a16_gemm import gpu as w4
from workbench.kernels.w4a16_gemm import nibbles
from workbench.kernels.w4a16_gemm import reference as w4_reference
from workbench.kernels.w8a16_gemm import cpu as w8_pack
from workbench.kernels.w8a16_gemm import gpu as w8
from workbench.kernels.w8a16_gemm import reference as w8_reference

found: dict[str, float] = {}


def record(name: str, got: torch.Tensor, expected: torch.Tensor) -> None:
    error = (got.double() - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    found[name] = float(error)


def main() -> None:
    torch.manual_seed(0)
    draw = random.Random(0)
    shapes = [(1, 63, 60), (5, 123, 123), (70, 60, 63), (17, 64, 130)]
    shapes += [(draw.randint(1, 40), draw.randint(1, 90), draw.randint(1, 200)) for _ in range(4)]
    for m, n, k in shapes:
        w, x = torch.randn(n, k), torch.randn(m, k).bfloat16()
        for group in (32, 64, 128):
            q, pairs = w4_reference.quantize(w, group, symmetric=False)
            record(f"w4a16 {m}x{n}x{k} g{group}", w4.matmul(x, nibbles.pack(q, group), pairs)[:, :n],
                   w4_reference.matmul(x, q, pairs, n))
        q8, scale = w8_reference.quantize(w)
        record(f"w8a16 {m}x{n}x{k}", w8.matmul(x, w8_pack.pack(q8), scale),
               w8_reference.matmul(x, q8, scale))
    for b, heads, kv_heads, n, length, d, e in ((1, 6, 2, 1, 63, 64, 64), (2, 4, 4, 3, 123, 60, 60),
                                                (1, 8, 2, 5, 300, 16, 24)):
        x, y = torch.randn(b, kv_heads, length + 9, d), torch.randn(b, kv_heads, length + 9, e)
        q8, scale = kv.quantize(x)
        expected, scales = kv_reference.quantize(x)
        record(f"kv_int8 quantize {d}", q8.float() * scale.float(),
               expected.double() * scales.double())
        stored = [t[:, :, :length] for t in (q8, scale, *kv.quantize(y))]
        query = torch.randn(b, heads, n, d).bfloat16()
        record(f"kv_int8 attend {heads}/{kv_heads} {n} {length}", kv.attend(query, *stored),
               kv_reference.attend(query, *stored))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
