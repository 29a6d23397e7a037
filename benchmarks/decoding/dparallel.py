"""What certainty-forcing distillation (dParallel) does to the bundled masked-diffusion model, task by task.

    python -m workbench.zoo.recipes.dparallel --out /tmp/all --all-tasks
    python -m workbench.zoo.recipes.dparallel --out /tmp/determined
    python benchmarks/decoding/dparallel.py all=/tmp/all determined=/tmp/determined [--examples 60]

The base and the distilled models on the same held-out examples: share of valid answers and tokens per forward
for three decoders. The gate of a model: on tasks with one right answer more tokens per forward at no less
quality. Where several answers are right, certainty must cost quality: there the ceiling is the task's own.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from workbench.diffusion.model import open_model
from workbench.diffusion.study import measure
from workbench.store.environment import collect
from workbench.zoo import list_tasks as tasks

DECODERS = ("plain", "diffusion_threshold", "diffusion_entropy")


def look(source: str, examples: int) -> dict[str, dict[str, Any]]:
    """decoder -> task -> accuracy and tokens per forward."""
    model = open_model(source)
    found: dict[str, dict[str, Any]] = {}
    for decoder in DECODERS:
        found[decoder] = {}
        for task in tasks.TASKS:
            row, _ = measure(model, decoder, task, examples)
            share = row["right"] / examples
            found[decoder][task] = {"accuracy": share, "se": math.sqrt(share * (1 - share) / examples),
                                    "tokens_per_forward": row["tokens"] / row["forwards"]}
        print(f"{Path(source).name:14} {decoder:22}", "  ".join(
            f"{t} {r['accuracy']:.2f}/{r['tokens_per_forward']:.1f}" for t, r in found[decoder].items()),
            flush=True)
    return found


def passes(base: dict[str, Any], made: dict[str, Any]) -> bool:
    """The gate, for one decoder."""
    one = [t for t in tasks.TASKS if t in tasks.DETERMINED]
    no_worse = all(made[t]["accuracy"] >= base[t]["accuracy"] for t in one)
    gain = sum(made[t]["tokens_per_forward"] - base[t]["tokens_per_forward"] for t in one)
    return no_worse and gain / len(one) >= 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--examples", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("dparallel.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = {"base": look("wb-dlm", given.examples)}
    recipes = {}
    for pair in given.models:
        name, _, folder = pair.partition("=")
        results[name] = look(folder, given.examples)
        recipes[name] = json.loads((Path(folder) / "manifest.json").read_text("utf-8"))["recipe"]
    gates = {name: {d: passes(results["base"][d], found[d]) for d in DECODERS[1:]}
             for name, found in results.items() if name != "base"}
    print(json.dumps(gates))
    given.out.write_text(json.dumps({"examples": given.examples, "environment": collect(), "recipes": recipes,
                                     "gates": gates, "results": results}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
