"""A trace file like those of PyTorch's profiler, of any size: host operators, launches, kernels on two
streams.

    python benchmarks/traces/synthetic.py /tmp/million.json 1090000
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

_KERNELS = [
    "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_64x4_tn",
    "flash_fwd_kernel",
    "void at::native::vectorized_elementwise_kernel<4, at::native::BinaryFunctor<float, float>>",
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>",
    "ncclDevKernel_AllReduce_Sum_bf16_RING_LL",
    "Memcpy DtoD (Device -> Device)",
]
_OPS = [
    "aten::linear",
    "aten::addmm",
    "aten::mul",
    "aten::add",
    "aten::scaled_dot_product_attention",
    "aten::copy_",
]


def write(path: Path, events: int, seed: int = 0) -> None:
    """About ``events`` events: of every four two are host operators, one a launch, one a kernel."""
    draw = random.Random(seed)
    host, device, number = 1_000_000.0, 1_000_100.0, 0
    with path.open("w") as out:
        out.write(
            '{\n  "schemaVersion": 1,\n  "deviceProperties": [\n    {\n      "id": 0, '
            '"name": "a GPU"\n    }\n  ],\n'
            '  "distributedInfo": {"rank": 0, "world_size": 1},\n  "traceEvents": [\n'
        )
        first = True
        while number < events:
            correlation, kernel, op = number, draw.choice(_KERNELS), draw.choice(_OPS)
            work = draw.uniform(2, 60)
            start = host
            call = start + draw.uniform(1, 4)
            began = max(device, call + draw.uniform(4, 9))
            device = began + work
            host = call + draw.uniform(4, 30)
            rows = [
                (
                    "cpu_op",
                    op,
                    100,
                    100,
                    start,
                    host - start,
                    f'"External id": {correlation}, "Ev Idx": {number}, "Input Dims": '
                    "[[1, 4096], [4096, 4096]], "
                    '"Input type": ["c10::BFloat16", "c10::BFloat16"], "Concrete Inputs": ["", ""]',
                ),
                (
                    "cpu_op",
                    "aten::empty",
                    100,
                    100,
                    start + 0.2,
                    0.5,
                    f'"External id": {correlation}, "Ev Idx": {number + 1}, "Input Dims": '
                    "[[], [], [], [], [], []], "
                    '"Concrete Inputs": ["[1, 4096]", "15", "0", "", "", ""]',
                ),
                (
                    "cuda_runtime",
                    "cudaLaunchKernel",
                    100,
                    100,
                    call,
                    3.0,
                    f'"External id": {correlation}, "cbid": 211, "correlation": {correlation}',
                ),
                (
                    "kernel",
                    kernel,
                    0,
                    7,
                    began,
                    work,
                    f'"External id": {correlation}, "queued": 0, "device": 0, "context": 1, "stream": 7, '
                    f'"correlation": {correlation}, "registers per thread": 96, "shared memory": 1024, '
                    '"blocks per SM": 2.0, "warps per SM": 16.0, "grid": [216, 1, 1], "block": [256, 1, 1], '
                    '"est. achieved occupancy %": 50',
                ),
            ]
            for cat, name, pid, tid, ts, dur, args in rows:
                out.write(
                    f'{"" if first else ","}\n  {{\n    "ph": "X", "cat": "{cat}", "name": "{name}", '
                    f'"pid": {pid}, '
                    f'"tid": {tid},\n    "ts": {ts:.3f}, "dur": {dur:.3f},\n    '
                    f'"args": {{\n      {args}\n    }}\n  }}'
                )
                first = False
            number += len(rows)
        out.write('\n  ],\n  "traceName": "synthetic"\n}\n')


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
