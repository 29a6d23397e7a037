"""Times every tile shape of the W4A16 kernel on this GPU and writes the table that ``kernels.tuning`` reads.

    python -m benchmarks.gpu.tune [--shapes 4096x4096 14336x4096] [--ship]

Without ``--ship`` the table goes to $WORKBENCH_HOME/kernels (this machine only), with it to kernels/tables.
"""

from __future__ import annotations

import argparse
import itertools

import torch

from benchmarks.gpu.timing import Clock, about, require
from workbench.kernels import tuning
from workbench.kernels.w4a16_gemm import gpu as w4


def candidates(m: int) -> list[dict[str, int]]:
    """Tile shapes worth timing for m rows."""
    heights = [16] if m <= 16 else [16, 32] if m <= 32 else [32, 64]
    return [
        {"BM": bm, "BN": bn, "split": split, "num_warps": warps, "num_stages": stages}
        for bm, bn, split, warps, stages in itertools.product(
            heights, (32, 64, 128), (1, 2, 4, 8, 16), (4, 8), (2, 3, 4)
        )
    ]


def best(clock: Clock, m: int, n: int, k: int, group: int) -> tuple[dict[str, int], float, float]:
    """(the fastest tile shape, its seconds, the default's)."""
    packed = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device="cuda")
    pairs = torch.rand(k // group, n, 2, device="cuda").bfloat16()
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    default = clock(lambda: w4.matmul(x, packed, pairs, {}))
    found: tuple[dict[str, int], float] = ({}, default)
    for config in candidates(m):
        try:
            seconds = clock(lambda c=config: w4.matmul(x, packed, pairs, c))
        except Exception as problem:  # a tile that does not fit this GPU's shared memory
            print(f"  {config}: {type(problem).__name__}")
            continue
        if seconds < found[1]:
            found = (config, seconds)
    return (*found, default)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shapes", nargs="*", default=["4096x4096", "8192x8192", "14336x4096", "4096x14336"]
    )
    parser.add_argument("--groups", nargs="*", type=int, default=[64, 128])
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--ship", action="store_true")
    given = parser.parse_args()
    require()
    clock, found = Clock(repeats=12), {}
    for shape, group, m in itertools.product(given.shapes, given.groups, given.rows):
        n, k = map(int, shape.split("x"))
        config, seconds, default = best(clock, m, n, k, group)
        key = tuning.key_of(m, n, k, group=group)
        print(f"{key}: {seconds * 1e6:.1f} us, default {default * 1e6:.1f} us, {config}")
        if config:
            found[key] = config
        tuning.write(
            torch.cuda.get_device_name(),
            {"w4a16_gemm": found},
            about(),
            tuning.TABLES if given.ship else None,
        )  # after every shape: nothing is lost


if __name__ == "__main__":
    main()
