"""Decoding a whole model on a GPU, with and without CUDA graphs, against the floor of reading its bytes.

    python -m benchmarks.gpu.decode [--shapes llama-1.1b llama-8b] [--context 512] [--out FILE.json]

Weights are random and never on disk (``model.weights=random``): speed does not depend on their values. Both
ways take turns; the floor is bytes of all matrices and of the cache over the bandwidth read in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import shapes
from workbench.runtime import load
from workbench.runtime.graphs import Graphs
from workbench.settings import Settings

VARIANTS: dict[str, dict[str, Any]] = {
    "bf16": {"weights": "bf16"},
    "int8": {"weights": "int8"},
    "int4": {"weights": "int4"},
}


class Subject:
    """One loaded variant; ``step(graphs)`` is the seconds of one decode step."""

    def __init__(self, shape: str, name: str, context: int, device: str) -> None:
        self.context = context
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.json"
            path.write_text(json.dumps(shapes.config(shape)))
            self.settings = Settings().with_(
                {
                    "model.source": str(path),
                    "model.weights": "random",
                    "compute.device": device,
                    "compute.graphs": "off",
                    "telemetry.preset": "off",
                    **VARIANTS[name],
                }
            )
            self.model = load(self.settings, lambda event: None)
        forward = self.model.forward
        forward.executor = None  # on a CPU only, to try this script there
        self.graphs = Graphs(forward, replay=device.startswith("cuda"))
        self.cache = self.model.cache(self.settings, 1, context + 16)
        self.masks = forward.masks([0], self.cache.capacity)
        self.cache.show_blocks(getattr(self.masks, "block", 1))
        packed = list(self.model.loaded.packed.values())
        head = forward.model.get_output_embeddings()
        self.bytes = (
            sum(module.nbytes for module in packed)
            + (0 if head in packed else head.weight.nbytes)
            + self.cache.nbytes * context // self.cache.capacity
        )

    def step(self, graphs: bool) -> float:
        forward, device = self.model.forward, self.model.device
        forward.graphs = self.graphs if graphs else None
        self.cache.rewind(self.context)
        ids = torch.ones(1, 1, dtype=torch.long, device=device)
        mask = self.masks.tree(self.context, [], [])
        forward.synchronize()
        began = time.perf_counter()
        forward(ids, ids * self.context, mask, self.cache, 1)
        forward.synchronize()
        return time.perf_counter() - began


def bandwidth(device: str) -> float:
    if device.startswith("cuda"):
        from benchmarks.gpu.timing import Clock

        return Clock().bandwidth()
    big = torch.ones(1 << 26)
    found = []
    for _ in range(5):
        began = time.perf_counter()
        big.sum()
        found.append(big.nbytes / (time.perf_counter() - began))
    return max(found)


def measure(subject: Subject, rounds: int, steps: int, speed: float) -> dict[str, Any]:
    times: dict[str, list[float]] = {"graphs": [], "launched": []}
    with torch.inference_mode():
        for _ in range(rounds):
            for name, graphs in (("launched", False), ("graphs", True)):
                subject.step(graphs)
                times[name].append(statistics.median(subject.step(graphs) for _ in range(steps)))
    floor = subject.bytes / speed
    return {
        "bytes": subject.bytes,
        "floor_s": floor,
        "graphs": subject.graphs.describe(),
        **{f"{name}_s": found for name, found in times.items()},
        "of_floor": floor / statistics.median(times["graphs"]),
        "ratio": statistics.median(
            a / b for a, b in zip(times["launched"], times["graphs"], strict=True)
        ),
    }


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--shapes", nargs="*", default=["llama-1.1b", "llama-8b"])
    options.add_argument("--variants", nargs="*", default=list(VARIANTS))
    options.add_argument("--context", type=int, default=512)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--steps", type=int, default=30)
    options.add_argument("--device", default="cuda", help="cpu only tries the script")
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    if given.device.startswith("cuda"):
        from benchmarks.gpu.timing import require

        require()
    rows: dict[str, Any] = {}
    speed = bandwidth(given.device)
    for shape in given.shapes:
        for name in given.variants:
            row = rows[f"{shape} {name}"] = measure(
                Subject(shape, name, given.context, given.device), given.rounds, given.steps, speed
            )
            print(
                f"{shape} {name}: {1 / statistics.median(row['graphs_s']):.1f} tok/s, "
                f"{row['of_floor']:.2f} of "
                "the "
                f"floor, graphs x{row['ratio']:.2f}"
            )
    if given.out:
        from workbench.store.environment import collect

        given.out.write_text(
            json.dumps(
                {
                    "command": "python -m benchmarks.gpu.decode",
                    "bandwidth": speed,
                    "rows": rows,
                    "environment": collect(),
                },
                indent=1,
                default=str,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
