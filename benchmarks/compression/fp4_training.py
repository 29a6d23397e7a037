"""Choices of four-bit training on a small regression, all emulated: final loss over three seeds.

Regime: quality only. A network of 32-128-128-4 learns sines of random projections (4096 points, Adam, 300
steps of 256); the middle product runs in four bits forwards and backwards. loss: on 4096 fresh points,
mean and standard deviation over seeds; ``float32`` is the same network untouched. A task this small says
how the choices rank, not what they cost a language model.

    python benchmarks/compression/fp4_training.py [--save]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from torch import nn

from workbench.formats.fp4_training import Recipe, convert

SEEDS, STEPS, BATCH, POINTS = (0, 1, 2), 300, 256, 4096
RECIPES: dict[str, Recipe | None] = {
    "float32": None,
    "E8M0, block 32": Recipe("e8m0", 32, False, 0, "none"),
    "E4M3, no tensor scale": Recipe("e4m3", 16, False, 0, "none"),
    "E4M3 and tensor scale": Recipe("e4m3", 16, True, 0, "none"),
    "UE5M3": Recipe("ue5m3", 16, False, 0, "none"),
    "UE5M3, stochastic gradients": Recipe("ue5m3", 16, False, 0, "gradients"),
    "UE5M3, rotated, stochastic gradients": Recipe("ue5m3", 16, False, 16, "gradients"),
    "UE5M3, all stochastic": Recipe("ue5m3", 16, False, 0, "all"),
}


def final_loss(recipe: Recipe | None, seed: int) -> float:
    torch.manual_seed(seed)
    projection = torch.randn(32, 4) / 3
    x, fresh = torch.randn(POINTS, 32), torch.randn(POINTS, 32)
    y, target = torch.sin(x @ projection), torch.sin(fresh @ projection)
    model = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 4))
    if recipe is not None:
        convert(model, recipe)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(STEPS):
        at = torch.randint(POINTS, (BATCH,))
        loss = (model(x[at]) - y[at]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float((model.eval()(fresh) - target).square().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    rows = []
    for name, recipe in RECIPES.items():
        losses = [final_loss(recipe, seed) for seed in SEEDS]
        rows.append({"recipe": name, "loss": statistics.fmean(losses), "std": statistics.stdev(losses)})
        print(f"{name:40s} {rows[-1]['loss']:.4f} +- {rows[-1]['std']:.4f}", flush=True)
    if args.save:
        about = {"torch": torch.__version__, "seeds": len(SEEDS), "steps": STEPS, "emulated": True}
        path = Path(__file__).parent / "results" / "fp4_training.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
