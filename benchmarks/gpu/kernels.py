"""The Triton kernels against their floors and against cuBLAS and torch's attention, on this machine's GPU.

    python -m benchmarks.gpu.kernels [--out benchmarks/gpu/results]

Every row: seconds, bytes over the bandwidth measured in the same run (``of_floor``), and the ratio to
bfloat16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.gpu.timing import Clock, about, require
from workbench.kernels import tuning
from workbench.kernels.bit_planes import cost as planes_cost
from workbench.kernels.bit_planes import gpu as bit_planes
from workbench.kernels.bit_planes import planes
from workbench.kernels.decode_attention import cost as attention_cost
from workbench.kernels.decode_attention import gpu as attention
from workbench.kernels.w4a16_gemm import cost as w4_cost
from workbench.kernels.w4a16_gemm import gpu as w4
from workbench.kernels.w4a16_gemm import nibbles

SHAPES = [(4096, 4096), (8192, 8192), (14336, 4096), (28672, 8192)]
ROWS = [1, 2, 4, 8, 16, 32, 64, 128]


def linear(clock: Clock, bandwidth: float) -> list[dict[str, Any]]:
    found = []
    for n, k in SHAPES:
        dense = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
        q = torch.randint(0, 16, (n, k), dtype=torch.uint8, device="cuda")
        pairs = torch.rand(k // 128, n, 2, device="cuda").bfloat16()
        packed, three = nibbles.pack(q, 128), planes.pack(q & 7, 3)
        for m in ROWS:
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            plain = clock(lambda x=x, w=dense: F.linear(x, w))
            for name, seconds, count in (
                ("bf16 cuBLAS", plain, 2 * (n * k + m * (n + k))),
                (
                    "w4a16 g128",
                    clock(lambda x=x, p=packed, s=pairs: w4.matmul(x, p, s)),
                    w4_cost.traffic_bytes(m, n, k, 128),
                ),
                (
                    "w3a16 planes g128",
                    clock(lambda x=x, p=three, s=pairs: bit_planes.matmul(x, p, s)),
                    planes_cost.traffic_bytes(m, n, k, 3, 128),
                ),
            ):
                found.append(
                    {
                        "kernel": name,
                        "m": m,
                        "n": n,
                        "k": k,
                        "s": seconds,
                        "bytes": count,
                        "of_floor": count / bandwidth / seconds,
                        "over_bf16": plain / seconds,
                    }
                )
    return found


def attend(clock: Clock, bandwidth: float) -> list[dict[str, Any]]:
    found = []
    for batch, length in ((1, 8192), (1, 65536), (8, 8192), (16, 65536 // 8)):
        query = torch.randn(batch, 32, 1, 128, device="cuda", dtype=torch.bfloat16)
        keys, values = (
            torch.randn(batch, 8, length, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2)
        )
        lengths = torch.full((batch,), length, device="cuda", dtype=torch.int32)
        count = batch * attention_cost.traffic_bytes(1, 32, 8, length, 128, 128)
        plain = clock(
            lambda q=query, k=keys, v=values: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        )
        mine = clock(lambda q=query, k=keys, v=values, n=lengths: attention.attend(q, k, v, n))
        for name, seconds in (("torch sdpa", plain), ("stream-k", mine)):
            found.append(
                {
                    "kernel": name,
                    "batch": batch,
                    "length": length,
                    "s": seconds,
                    "bytes": count,
                    "of_floor": count / bandwidth / seconds,
                    "over_bf16": plain / seconds,
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    require()
    clock = Clock()
    bandwidth = clock.bandwidth()
    found = {
        "about": about(),
        "read_bytes_per_s": bandwidth,
        "linear": linear(clock, bandwidth),
        "attention": attend(clock, bandwidth),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{tuning.name_of(torch.cuda.get_device_name())}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    for row in (*found["linear"], *found["attention"]):
        print({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()})
    print(path)


if __name__ == "__main__":
    main()
