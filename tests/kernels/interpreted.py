"""Run as a program with TRITON_INTERPRET=1: every Triton kernel against its float64 reference.

Prints one JSON object: name -> relative RMS error. The interpreter must be chosen before Triton is
imported, hence the process of its own. It cuts bfloat16 results instead of rounding them, so errors
are about twice those of a GPU.
"""

from __future__ import annotations

import json
import random

import torch

from workbench.kernels.bit_planes import gpu as bits
from workbench.kernels.bit_planes import planes
from workbench.kernels.bit_planes import reference as bits_reference
from workbench.kernels.decode_attention import gpu as attention
from workbench.kernels.decode_attention import reference as attention_reference
from workbench.kernels.kivi import cpu as kivi_cpu
from workbench.kernels.kivi import gpu as kivi
from workbench.kernels.kivi import reference as kivi_reference
from workbench.kernels.kv_int8 import gpu as kv
from workbench.kernels.kv_int8 import reference as kv_reference
from workbench.kernels.rmsnorm import gpu as rmsnorm
from workbench.kernels.rmsnorm import reference as rmsnorm_reference
from workbench.kernels.rope import gpu as rope
from workbench.kernels.rope import reference as rope_reference
from workbench.kernels.swiglu import gpu as swiglu
from workbench.kernels.swiglu import reference as swiglu_reference
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


def fused(draw: random.Random) -> None:
    for _ in range(5):
        n, width, heads = draw.randint(1, 9), draw.randint(1, 200), draw.randint(1, 9)
        x, weight = torch.randn(n, width).bfloat16(), torch.randn(width).bfloat16()
        residual = torch.randn(n, width) if n % 2 else None
        for which, got, expected in zip(
            ("out", "stream"),
            rmsnorm.norm(x, weight, 1e-5, residual),
            rmsnorm_reference.norm(x, weight, 1e-5, residual),
            strict=True,
        ):
            record(f"rmsnorm {which} {n}x{width}", got, expected)
        y = torch.randn(n, 2 * width).bfloat16()
        record(
            f"swiglu {n}x{width}",
            swiglu.swiglu(y[:, :width], y[:, width:]),
            swiglu_reference.swiglu(y[:, :width], y[:, width:]),
        )
        q, positions = torch.randn(2, n, heads, 2 * width).bfloat16(), torch.randint(0, 9000, (2, n))
        frequency = rope_reference.frequencies(2 * width, 1e4)
        record(
            f"rope {n}x{heads}x{2 * width}",
            rope.rotate(q, positions, frequency),
            rope_reference.rotate(q, positions, frequency),
        )
    for b in range(1, 9):
        m, n, group = draw.randint(1, 40), draw.randint(1, 70), draw.choice([32, 64, 128])
        k = group * draw.randint(1, 3)
        w, x = torch.randn(n, k), torch.randn(m, k).bfloat16()
        q, pairs = bits_reference.quantize(w, b, group)
        record(
            f"bit_planes {b} {m}x{n}x{k}",
            bits.matmul(x, planes.pack(q, b), pairs),
            bits_reference.matmul(x, q, pairs, b),
        )


def attend(draw: random.Random) -> None:
    for case in range(6):
        batch, kv_heads, groups, n = (
            draw.randint(1, 3),
            draw.randint(1, 3),
            draw.randint(1, 4),
            draw.randint(1, 3),
        )
        d, e = draw.choice([(16, 24), (64, 64), (48, 48)])
        lengths = [draw.randint(n, 400) for _ in range(batch)]
        size = max(lengths) + case
        query = torch.randn(batch, kv_heads * groups, n, d).bfloat16()
        keys, values = (
            torch.randn(batch, kv_heads, size, d).bfloat16(),
            torch.randn(batch, kv_heads, size, e).bfloat16(),
        )
        visible = (
            torch.arange(size)[None, None]
            < torch.tensor(lengths)[:, None, None] - n + torch.arange(1, n + 1)[None, :, None]
        )
        record(
            f"stream-k {case}",
            attention.attend(query, keys, values, torch.tensor(lengths), programs=draw.randint(1, 12)),
            attention_reference.attend(query, keys, values, visible),
        )
    for bits_k, bits_v, width in ((2, 2, 32), (4, 2, 64), (2, 4, 16)):
        n, rest, rows = 32 * draw.randint(1, 4), draw.randint(1, 40), draw.randint(1, 3)
        rows = min(rows, rest)
        keys, values = torch.randn(1, 2, n + rest, width), torch.randn(1, 2, n + rest, width)
        packed = kivi_cpu.pack_keys(keys[:, :, :n], bits_k, 32)
        for mine, theirs in zip(kivi.pack_keys(keys[:, :, :n], bits_k, 32), packed, strict=True):
            record(f"kivi pack {bits_k} {width} {mine.dtype}", mine.double(), theirs.double())
        group = min(32, width)
        stored = kivi_cpu.pack_values(values[:, :, :n], bits_v, group)
        query = torch.randn(1, 4, rows, width).bfloat16()
        record(
            f"kivi attend {bits_k} {bits_v} {width}",
            kivi.attend(query, packed, stored, keys[:, :, n:], values[:, :, n:], bits_k, bits_v, 32),
            kivi_reference.attend(
                query,
                kivi_reference.quantize(keys[:, :, :n], bits_k, 2, 32),
                kivi_reference.quantize(values[:, :, :n], bits_v, 3, group),
                keys[:, :, n:],
                values[:, :, n:],
            ),
        )


def main() -> None:
    torch.manual_seed(0)
    draw = random.Random(0)
    shapes = [(1, 63, 60), (5, 123, 123), (70, 60, 63), (17, 64, 130)]
    shapes += [(draw.randint(1, 40), draw.randint(1, 90), draw.randint(1, 200)) for _ in range(4)]
    for m, n, k in shapes:
        w, x = torch.randn(n, k), torch.randn(m, k).bfloat16()
        for group in (32, 64, 128):
            q, pairs = w4_reference.quantize(w, group, symmetric=False)
            record(
                f"w4a16 {m}x{n}x{k} g{group}",
                w4.matmul(x, nibbles.pack(q, group), pairs)[:, :n],
                w4_reference.matmul(x, q, pairs, n),
            )
        q8, scale = w8_reference.quantize(w)
        record(
            f"w8a16 {m}x{n}x{k}", w8.matmul(x, w8_pack.pack(q8), scale), w8_reference.matmul(x, q8, scale)
        )
    for b, heads, kv_heads, n, length, d, e in (
        (1, 6, 2, 1, 63, 64, 64),
        (2, 4, 4, 3, 123, 60, 60),
        (1, 8, 2, 5, 300, 16, 24),
    ):
        x, y = torch.randn(b, kv_heads, length + 9, d), torch.randn(b, kv_heads, length + 9, e)
        q8, scale = kv.quantize(x)
        expected, scales = kv_reference.quantize(x)
        record(f"kv_int8 quantize {d}", q8.float() * scale.float(), expected.double() * scales.double())
        stored = [t[:, :, :length] for t in (q8, scale, *kv.quantize(y))]
        query = torch.randn(b, heads, n, d).bfloat16()
        record(
            f"kv_int8 attend {heads}/{kv_heads} {n} {length}",
            kv.attend(query, *stored),
            kv_reference.attend(query, *stored),
        )
    fused(draw)
    attend(draw)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
