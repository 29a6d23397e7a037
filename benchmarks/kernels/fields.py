"""Products over codes of every width against int4 and bfloat16: does reading fewer bits take less time?

    python benchmarks/kernels/fields.py [--out results/fields-cpu.json] [--rows 1,8] [--repeats 25]

Matrices of 4096 x 2048, six of each scheme one after the other (more than a usual last-level cache together
with the other schemes'), groups of 64. Schemes take turns in every repeat. ``us``: the fastest repeat, per
matrix; ``x int4``: median over repeats of int4's time over the scheme's in the same repeat.
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
from typing import Any

import torch

from workbench.kernels import native
from workbench.kernels.native import abi, fields, linear

N, K, COPIES, GROUP = 4096, 2048, 6, 64


def codes(bits: int) -> torch.Tensor:
    return torch.randint(0, 100, (N // 16, K * 2 * bits), dtype=torch.uint8)


def pairs() -> torch.Tensor:
    return torch.rand(N // 16, K // GROUP, 2, 16).bfloat16()


def scales(group: int) -> torch.Tensor:
    return torch.randint(60, 90, (N // 16, K // group * 16), dtype=torch.uint8)


def schemes() -> dict[str, Callable[[], abi.Weight]]:
    levels = torch.arange(16, dtype=torch.uint8)
    double = torch.randint(60, 90, (N // 16, fields.double_bytes(K // GROUP)), dtype=torch.uint8)
    row = torch.rand(N).bfloat16()
    made: dict[str, Callable[[], abi.Weight]] = {
        "bf16": lambda: linear.dense(torch.randn(N, K).bfloat16()),
        "int8": lambda: linear.octets(codes(8), row, N, K),
        "int4": lambda: linear.nibbles(codes(4), pairs(), N, K, GROUP),
    }
    for bits in range(1, 8):
        made[f"{bits} bits"] = lambda b=bits: linear.fields(  # type: ignore[misc]
            codes(b), pairs(), N, K, GROUP, b, abi.SCALE_PAIR, middle=2.0 ** (b - 1))
    made["nf4"] = lambda: linear.fields(codes(4), double, N, K, GROUP, 4, abi.SCALE_DOUBLE, levels=levels)
    made["mxfp4"] = lambda: linear.fields(codes(4), scales(32), N, K, 32, 4, abi.SCALE_E8M0, levels=levels)
    made["nvfp4"] = lambda: linear.fields(codes(4), scales(16), N, K, 16, 4, abi.SCALE_E4M3, levels=levels)
    made["fp8"] = lambda: linear.float8(codes(8), row, N, K, 0, abi.E4M3, abi.SCALE_ROW)
    return made


def measure(rows: int, repeats: int) -> list[dict[str, Any]]:
    weights = {name: [make() for _ in range(COPIES)] for name, make in schemes().items()}
    x, spent = torch.randn(rows, K).bfloat16(), {name: list[float]() for name in weights}
    for turn in range(-1, repeats):
        for name, stored in weights.items():
            began = time.perf_counter()
            for weight in stored:
                linear.matmul(x, weight)
            if turn >= 0:
                spent[name].append((time.perf_counter() - began) / COPIES)
    return [{"scheme": name, "rows": rows, "us": round(1e6 * min(times), 1), "x int4": round(
        statistics.median(a / b for a, b in zip(spent["int4"], times, strict=True)), 3)}
        for name, times in spent.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rows", default="1,8")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not native.available():
        raise SystemExit(native.why_not())
    torch.set_num_threads(args.threads)
    found = [line for rows in args.rows.split(",") for line in measure(int(rows), args.repeats)]
    for line in found:
        print(f"{line['rows']:3d} rows  {line['scheme']:8s} {line['us']:9.1f} us "
              f"{line['x int4']:6.2f} x int4")
    if args.out:
        about = {"isa": native.isa(), "threads": args.threads, "torch": torch.__version__,
                 "python": platform.python_version(), "load": os.getloadavg()[0]}
        args.out.write_text(json.dumps({"about": about, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
