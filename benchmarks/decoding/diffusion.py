"""Quality against parallelism of every canvas decoder, task by task, beside the closed forms.

    python benchmarks/decoding/diffusion.py [--examples 100] [--out FILE]

Held-out examples of the list tasks (arXiv:2510.04767): share of valid answers and tokens per forward, its end
included. ``one shot`` is what independent draws from perfect marginals would reach.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from workbench.diffusion.canvas import fill
from workbench.diffusion.model import DiffusionModel, open_model
from workbench.settings.tree import parse
from workbench.store.environment import collect
from workbench.zoo import list_tasks as tasks

DECODERS = ("plain", "diffusion_static(count=2)", "diffusion_static(count=4)",
            "diffusion_threshold(tau=0.95)", "diffusion_threshold", "diffusion_threshold(tau=0.7)",
            "diffusion_threshold(tau=0.5)", "diffusion_localleap", "diffusion_credit",
            "diffusion_entropy", "diffusion_learn2pd", "diffusion_learn2pd(end=predicted)",
            "diffusion_freedave", "diffusion_freedave(drafts=8)")


def method(name: str) -> Any:
    return parse("decoding", "diffusion_static" if name == "plain" else name)


def measure(model: DiffusionModel, decoder: str, task: str, examples: int) -> dict[str, Any]:
    """Accuracy with its binomial error, tokens per forward, rows per forward, texts."""
    right, tokens, forwards, rows, texts = 0, 0, 0, 0, []
    for seed in range(examples):
        given = tasks.example(task, seed)
        found = fill(model, model.encode(" ".join(given.prompt)), method(decoder))
        answer = model.decode(found.tokens).split()
        right += tasks.right(given, answer)
        tokens += len(found.tokens) + 1
        forwards += found.forwards
        rows += found.rows
        texts.append(found.tokens)
    share = right / examples
    return {"accuracy": share, "se": math.sqrt(share * (1 - share) / examples),
            "tokens_per_forward": tokens / forwards, "rows_per_forward": rows / forwards,
            "texts": texts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--model", default="wb-dlm")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("diffusion.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = open_model(given.model)
    results: dict[str, dict[str, Any]] = {}
    for decoder in DECODERS:
        results[decoder] = {}
        for task in tasks.TASKS:
            found = results[decoder][task] = measure(model, decoder, task, given.examples)
            found["as_plain"] = sum(a == b for a, b in zip(
                found["texts"], results["plain"][task]["texts"], strict=True)) / given.examples
        print(f"{decoder:34}", "  ".join(f"{t[:9]} {r['accuracy']:.2f}/{r['tokens_per_forward']:.1f}"
                                         for t, r in results[decoder].items()), flush=True)
    for row in results.values():
        for found in row.values():
            del found["texts"]
    given.out.write_text(json.dumps({"model": given.model, "examples": given.examples,
                                     "environment": collect(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
