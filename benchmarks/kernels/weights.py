"""What packed weights cost against bfloat16, per matrix: one product, interleaved, as ratios.

    python benchmarks/kernels/weights.py [--out results.json] [--threads 1] [--repeats 15]

Regime: small m (decoding, verification) reads each weight once and is bound by memory or, on small
matrices, by the call itself; large m (prefill) is bound by the multiply units. The baseline is
``F.linear`` on bfloat16, which is what every unpacked layer runs. All candidates of a shape take turns
in every repeat, and a ratio is taken within its repeat, so that a machine busy with something else
slows both sides; the result is the median ratio with its quartiles (below 1: faster than bfloat16).
With one thread the clock is that thread's processor time, which other processes do not lengthen (they
still take cache and memory bandwidth); with more threads it is wall-clock time on a quiet machine. The
order rotates, and a matrix that fits stays in cache between its turns.

``auto`` is what the workbench runs at that m; ``fused`` and ``blocked`` are its two halves, and
``oneDNN prepacked`` is a stronger bfloat16 baseline that keeps a second, opaque copy of the layout.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from workbench.kernels.w4a16_gemm import cost as cost4
from workbench.kernels.w4a16_gemm import cpu as int4
from workbench.kernels.w4a16_gemm import launch as launch4
from workbench.kernels.w8a16_gemm import cost as cost8
from workbench.kernels.w8a16_gemm import cpu as int8
from workbench.kernels.w8a16_gemm import launch as launch8
from workbench.machine import this_machine

SHAPES = [(384, 384), (1024, 384), (384, 1024), (4096, 384), (2048, 2048), (4096, 4096)]
ROWS = [1, 4, 8, 32, 128]
GROUP = 64
SLICE_S = 0.004  # a candidate's turn within a repeat


def candidates(n: int, k: int, m: int) -> dict[str, Callable[[], torch.Tensor]]:
    weight = torch.randn(n, k) * 0.02
    x, dense = torch.randn(m, k).bfloat16(), weight.bfloat16()
    q8, s8 = launch8.quantize_and_pack(weight)
    q4, p4 = launch4.quantize_and_pack(weight, GROUP, False)
    prepacked = torch.ops.mkldnn._reorder_linear_weight(dense, m)
    return {
        "bf16": lambda: F.linear(x, dense),
        "bf16 oneDNN prepacked": lambda: torch.ops.mkldnn._linear_pointwise(
            x, prepacked, None, "none", [], ""),
        "int8 auto": lambda: launch8.matmul(x, q8, s8),
        "int8 fused": lambda: int8.fused(x, q8, s8),
        "int8 blocked": lambda: int8.blocked(x, q8, s8),
        "int4 auto": lambda: launch4.matmul(x, q4, p4),
        "int4 fused": lambda: int4.fused(x, q4, p4),
        "int4 blocked": lambda: int4.blocked(x, q4, p4),
    }


def turn(call: Callable[[], torch.Tensor], clock: Callable[[], float]) -> float:
    """Seconds per call in one turn of about ``SLICE_S``."""
    begun = clock()
    call()
    once = clock() - begun
    count = max(1, int(SLICE_S / max(once, 1e-6)))
    begun = clock()
    for _ in range(count):
        call()
    return (clock() - begun) / count


def measure(n: int, k: int, m: int, repeats: int) -> list[dict[str, object]]:
    calls = candidates(n, k, m)
    for call in calls.values():
        call()
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for repeat in range(repeats):
        first = repeat % len(names)  # nobody always finds its weights cold, or warm
        for name in names[first:] + names[:first]:
            times[name].append(turn(calls[name], clock))
    rows = []
    for name, mine in times.items():
        ratios = [a / b for a, b in zip(mine, times["bf16"], strict=True)]
        low, mid, high = statistics.quantiles(ratios, n=4)
        rows.append({"rows": n, "columns": k, "m": m, "kernel": name, "ratio": round(mid, 3),
                     "quartiles": [round(low, 3), round(high, 3)]})
    return rows


def environment(threads: int) -> dict[str, object]:
    machine = this_machine()
    return {"cpu": machine.cpu, "cores": machine.cores, "threads": threads, "torch": torch.__version__,
            "capability": torch.backends.cpu.get_cpu_capability(), "python": platform.python_version(),
            "load_average": os.getloadavg(), "group": GROUP,
            "int8_fused_rows": int8.FUSED_ROWS, "int4_fused_rows": int4.FUSED_ROWS,
            "bytes_ratio": {"int8": round(cost8.weight_bytes(1024, 1024) / 2**21, 3),
                            "int4": round(cost4.weight_bytes(1024, 1024, GROUP) / 2**21, 3)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: list[dict[str, object]] = []
    with torch.inference_mode():
        for n, k in SHAPES:
            for m in ROWS:
                rows = measure(n, k, m, options.repeats)
                found += rows
                print(f"{n}x{k} m={m}: " + "  ".join(
                    f"{r['kernel']} {r['ratio']}" for r in rows[1:]), flush=True)
    result = {"environment": environment(options.threads), "repeats": options.repeats, "results": found}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"auto": {f"{r['rows']}x{r['columns']} m={r['m']} {r['kernel']}": r["ratio"]
                               for r in found if str(r["kernel"]).endswith("auto")}}))


if __name__ == "__main__":
    main()
