"""How near the native products are to reading memory, and what rows, neighbours and prompts cost.

    python benchmarks/kernels/linear.py [--out results/linear-cpu.json] [--threads 2] [--repeats 9]
        [--only decoding neighbour prefill]

As a processor with less: WORKBENCH_ISA=avx2 (avx512, avx512_vnni) and, for torch, ONEDNN_MAX_CPU_ISA=AVX2
(AVX512_CORE, AVX512_CORE_VNNI).

The matrices of the layers of a 1.1 B Llama shape (hidden 2048, 4 KV heads of 64, intermediate 5632), random
numbers, enough layers that the last-level cache of a usual processor does not hold them. In every repeat
the floor (torch summing 256 MiB of int64: nothing but reading) and every scheme take turns; a fraction is
bytes per second over the floor of the same repeat, and the result is the median with its quartiles. A
ratio of two schemes is taken within its repeat too.

``rows``: time of m rows over one row. ``neighbour``: speed while another process spins on one core, over the
speed of the repeat before it, and which share a fair scheduler would leave. ``prefill``: 512 rows, as a
prompt's and with the bits of decoded rows, against ``F.linear`` on the same bfloat16 matrix.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from workbench.kernels import native
from workbench.kernels.native import abi, linear
from workbench.kernels.w4a16_gemm import cost as cost4
from workbench.kernels.w8a16_gemm import cost as cost8
from workbench.machine import this_machine

SHAPES = [(2048, 2048), (256, 2048), (256, 2048), (2048, 2048), (5632, 2048), (5632, 2048), (2048, 5632)]
#: Which of them share an input: queries with keys and values, output, gate with up, down.
CALLS = [(0, 3), (3, 4), (4, 6), (6, 7)]
GROUP = 64
LAYERS = {"bf16": 4, "int8": 6, "int8 a8": 6, "int4": 8, "int4 a8": 8}
ROWS = (1, 2, 4, 8, 16)
PARTS = ("decoding", "neighbour", "prefill")


class Layers:
    """Stored matrices of several layers, and one pass over them."""

    def __init__(self, kind: str) -> None:
        self.weights: list[abi.Weight] = []
        self.kept: list[Any] = []
        self.bytes = 0
        for n, k in SHAPES * LAYERS[kind]:
            self.add(kind, n, k)

    def add(self, kind: str, n: int, k: int) -> None:
        eight = abi.A8 if kind.endswith("a8") else abi.A16
        if kind == "bf16":
            dense = torch.randn(n, k).bfloat16()
            weight, size = linear.dense(dense), dense.nbytes
            self.kept.append((dense,))
        elif kind.startswith("int8"):
            q, s = torch.randint(0, 256, (n // 16, k * 16), dtype=torch.uint8), torch.rand(n).bfloat16()
            weight = linear.octets(q, s, n, k, activations=eight)
            self.kept.append((q, s))
            size = cost8.weight_bytes(n, k)
        else:
            q = torch.randint(0, 256, (n // 16, k * 8), dtype=torch.uint8)
            s = torch.rand(n // 16, k // GROUP, 2, 16).bfloat16()
            weight = linear.nibbles(q, s, n, k, GROUP, activations=eight)
            self.kept.append((q, s))
            size = cost4.weight_bytes(n, k, GROUP)
        assert size == sum(t.nbytes for t in self.kept[-1])
        self.weights.append(weight)
        self.bytes += size

    def ready(self, m: int, y_bf16: bool = False, prompt: bool = False) -> Callable[[], None]:
        """One pass for m rows as the decoder makes it: products that share an input in one call."""
        library, calls = native.library(), []
        for start in range(0, len(self.weights), len(SHAPES)):
            for first, last in CALLS:
                weights = self.weights[start + first:start + last]
                x = torch.randn(m, weights[0].columns).bfloat16()
                ys = [torch.empty(m, w.rows, dtype=torch.bfloat16 if y_bf16 else torch.float32)
                      for w in weights]
                products = (abi.Product * len(weights))(*(
                    abi.Product(ctypes.pointer(w), None, y.data_ptr(), int(y_bf16), int(prompt))
                    for w, y in zip(weights, ys, strict=True)))
                calls.append((products, len(weights), x.data_ptr(), (x, ys)))

        def work() -> None:
            for products, count, x, _ in calls:
                library.wb_linear(products, count, x, m)

        return work


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def middle(values: list[float]) -> dict[str, float]:
    low, mid, high = statistics.quantiles(values, n=4)
    return {"median": round(mid, 3), "low": round(low, 3), "high": round(high, 3)}


def decoding(layers: dict[str, Layers], repeats: int) -> dict[str, Any]:
    """Fractions of the floor at every number of rows, and the cost of rows."""
    data = torch.ones(256 << 17, dtype=torch.int64)
    floors: list[float] = []
    rates: dict[tuple[str, int], list[float]] = {(kind, m): [] for kind in layers for m in ROWS}
    times: dict[tuple[str, int], list[float]] = {key: [] for key in rates}
    work = {(kind, m): layers[kind].ready(m) for kind, m in rates}
    for call in work.values():
        call()
    for _ in range(repeats):
        floor = max(data.nbytes / seconds(data.sum) for _ in range(3))
        floors.append(floor)
        for (kind, m), found in rates.items():
            took = seconds(work[kind, m])
            times[kind, m].append(took)
            found.append(layers[kind].bytes / took / floor)
    return {
        "floor_GB_per_s": middle([f / 1e9 for f in floors]),
        "fraction_of_floor": {f"{kind} m={m}": middle(v) for (kind, m), v in rates.items()},
        "rows_over_one_row": {f"{kind} m={m}": middle(
            [a / b for a, b in zip(times[kind, m], times[kind, 1], strict=True)])
            for kind in layers for m in ROWS[1:]},
        "speed_over_bf16": {kind: middle(
            [b / LAYERS["bf16"] / (a / LAYERS[kind])
             for a, b in zip(times[kind, 1], times["bf16", 1], strict=True)])
            for kind in layers if kind != "bf16"}}


def neighbour(layers: dict[str, Layers], repeats: int) -> dict[str, Any]:
    """Alone and beside a spinning process, in turns."""
    found: dict[str, list[float]] = {kind: [] for kind in ("bf16", "int8", "int4")}
    work = {kind: layers[kind].ready(1) for kind in found}
    for _ in range(repeats):
        for kind, kept in found.items():
            alone = seconds(lambda kind=kind: [work[kind]() for _ in range(8)])  # type: ignore[misc]
            spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            time.sleep(0.15)
            beside = seconds(lambda kind=kind: [work[kind]() for _ in range(8)])  # type: ignore[misc]
            spinner.kill()
            spinner.wait()
            kept.append(alone / beside)
    cores = os.cpu_count() or 1
    return {"speed_kept": {kind: middle(v) for kind, v in found.items()},
            "fair_share": round(min(1.0, cores / (cores + 1)), 3)}


def prefill(repeats: int) -> dict[str, Any]:
    """512 rows of one layer: seconds over torch's bfloat16, interleaved."""
    one = {kind: Layers.__new__(Layers) for kind in LAYERS}
    for kind, held in one.items():
        held.weights, held.kept, held.bytes = [], [], 0
        for n, k in SHAPES:
            held.add(kind, n, k)
    work = {(kind, way): held.ready(512, y_bf16=True, prompt=way == "prompt")
            for kind, held in one.items() for way in ("prompt", "decoded")}
    x = {k: torch.randn(512, k).bfloat16() for k in (2048, 5632)}
    dense = [kept[0] for kept in one["bf16"].kept]
    base: list[float] = []
    times: dict[tuple[str, str], list[float]] = {key: [] for key in work}
    for _ in range(repeats):
        base.append(seconds(lambda: [F.linear(x[w.shape[1]], w) for w in dense]))
        for key, call in work.items():
            times[key].append(seconds(call))
    flops = sum(2 * 512 * n * k for n, k in SHAPES)
    return {"torch_TFLOPS": middle([flops / t / 1e12 for t in base]),
            **{f"speed_over_torch, rows as {way}": {kind: middle(
                [a / b for a, b in zip(base, times[kind, way], strict=True)]) for kind in one}
               for way in ("prompt", "decoded")}}


def environment(threads: int) -> dict[str, Any]:
    machine = this_machine()
    return {"cpu": machine.cpu, "cores": machine.cores, "threads": threads, "isa": native.isa(),
            "torch": torch.__version__, "torch_isa": os.environ.get("ONEDNN_MAX_CPU_ISA", "all"),
            "python": platform.python_version(), "load_average": os.getloadavg(), "group": GROUP}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    if not native.available():
        sys.exit(native.why_not())
    torch.set_num_threads(given.threads)
    native.set_threads(given.threads)
    with torch.inference_mode():
        layers = {kind: Layers(kind) for kind in LAYERS}
        few = max(3, given.repeats // 2)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "decoding": lambda: decoding(layers, given.repeats), "neighbour": lambda: neighbour(layers, few),
            "prefill": lambda: prefill(few)}
        result = {"environment": environment(given.threads), "repeats": given.repeats,
                  **{part: work() for part, work in parts.items() if part in given.only}}
    text = json.dumps(result, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
