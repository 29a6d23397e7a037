"""What a verification of n rows costs on one model, operation by operation.

    python benchmarks/decoding/row_cost.py MODEL [--weights bf16] [--rows 1 2 4 8 16 32] [--out FILE]

The rows follow a context of 128 tokens. Rounds over all sizes are interleaved, the fastest of each counts;
every forward records its own operations (`workbench.runtime.native_trace`), so the parts are of that same
forward. Prints milliseconds, the ratio to one row, and the share of each operation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from workbench.runtime import load, native_trace
from workbench.runtime.model import Model
from workbench.settings import Settings
from workbench.speculation.measuring import CLOCKS
from workbench.store.environment import collect

CONTEXT = 128


def once(model: Model, masks: Any, cache: Any, n: int, clock: Callable[[], float]
         ) -> tuple[float, dict[str, float], float]:
    """(seconds, seconds by operation, GB read) of one forward of n rows."""
    ids = torch.arange(n)[None] % model.forward.vocab
    places = torch.arange(CONTEXT, CONTEXT + n)[None]
    cache.rewind(CONTEXT)
    mask = masks.tree(CONTEXT, list(range(-1, n - 2)), list(range(1, n)))
    ring = model.op_records
    if ring is not None:
        ring.arm()
    began = clock()
    model.forward(ids, places, mask, cache, n).argmax(-1).tolist()
    seconds = clock() - began
    parts: dict[str, float] = {}
    read = 0.0
    for record in ring.drain() if ring is not None else []:
        name = native_trace.abi.OPERATIONS[record.op]
        parts[name] = parts.get(name, 0.0) + (record.t1_ns - record.t0_ns) * 1e-9
        read += record.bytes
    return seconds, parts, read * 1e-9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--weights", default="bf16")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 12, 16, 24, 32])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall",
                        help="cpu: seconds of this process, for one thread on a machine that others use (the "
                             "operations' own times stay on the wall)")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    settings = Settings().with_({"model.source": given.model, "weights": given.weights,
                                 "telemetry.preset": "off", "telemetry.power": False,
                                 "compute.threads": given.threads})
    model = load(settings, lambda event: None)
    most = max(given.rows)
    cache = model.cache(settings, 1, CONTEXT + most)
    masks = model.forward.masks([0], cache.capacity)
    best: dict[int, tuple[float, dict[str, float], float]] = {}
    with torch.inference_mode():
        for turn in range(1 + given.rounds):  # the first is a warm-up
            for n in given.rows:
                found = once(model, masks, cache, n, CLOCKS[given.clock])
                if turn and (n not in best or found[0] < best[n][0]):
                    best[n] = found
    one = best[given.rows[0]][0]
    for n, (seconds, parts, read) in best.items():
        shown = ", ".join(f"{k} {1e3 * v:.1f}" for k, v in sorted(parts.items(), key=lambda p: -p[1])[:6])
        print(f"{n:3d} rows {1e3 * seconds:7.1f} ms  x{seconds / one:.2f}  {read / seconds:6.1f} GB/s   "
              f"{shown}")
    if given.out:
        given.out.write_text(json.dumps({
            "model": Path(given.model).name, "weights": given.weights, "context": CONTEXT,
            "clock": given.clock, "threads": given.threads, "executor": model.forward.describe(),
            "environment": collect(), "rows": {n: {"seconds": s, "ratio": s / one, "operations_s": p, "gb": g}
                     for n, (s, p, g) in best.items()}}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
