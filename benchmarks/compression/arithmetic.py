"""Arithmetic that no processor here has, and pruning in blocks: what each costs in quality, all emulated.

Regime: quality only, one thread, small models that are trained here in seconds, three seeds (mean and
standard deviation), so rankings and not sizes are the result. Nothing is timed; energy is estimated.

``lmul``: the bundled model's perplexity and KL with every linear layer's products replaced by additions.
``vit``: accuracy of a vision transformer on generated strokes, as floats and as integers alone.
``diffusion``: distance of a quantized diffusion model's samples from the float model's, from the same noise.
``blocks``: the same transformer with 8 x 8 blocks removed: one slope over all layers against the same share
in each. ``power`` is what is left where a MAC of the feed-forward part is said to take three times the power
of another (a price made up to show the term at work, no measurement).

    python benchmarks/compression/arithmetic.py [--part vit ...] [--seeds 3] [--model wb-1m] [--save]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.formats import learned_rounding
from workbench.gallery import _diffusion_points as diffusion
from workbench.gallery import _integer_vit_training as vit
from workbench.structure import blocks

RESULTS = Path(__file__).parent / "results" / "arithmetic.json"
LMUL = [f"lmul(mantissa={m}, variant={v})" for v in ("formula", "adder") for m in (4, 3, 2)]
Row = dict[str, Any]


def lmul(model: str, seeds: int) -> Iterator[Row]:
    """Kept scheme by scheme by the study, so a stopped one goes on."""
    from workbench.quality.study import study
    from workbench.settings import Settings

    settings = Settings().with_({"model.source": model, "compute.threads": 1})
    for row in study(settings, LMUL, lambda event: None, lambda: False, tasks=0):
        yield {"name": row.scheme, "model": model, "perplexity": row.perplexity,
               "perplexity_se": row.perplexity_se, "kl": row.kl_mean, "kl_se": row.kl_se, "top1": row.top1,
               "tokens": row.tokens}


def integer_vit(model: str, seeds: int) -> Iterator[Row]:
    found: dict[str, list[float]] = {"float twin": [], "integers alone": []}
    for seed in range(seeds):
        twin = vit.train(seed=seed)
        for name, one in zip(found, (twin, vit.integers(twin)), strict=True):
            found[name].append(vit.accuracy(one, 1024))
    for name, values in found.items():
        yield {"name": name, **_spread("accuracy", values), "chance": 1 / vit.CLASSES}


def floats(model: str, seeds: int) -> Iterator[Row]:
    """Mean distance in the plane; the clusters lie on a circle of radius 1.4."""
    ways: dict[str, dict[str, Any]] = {
        "W8A8 floats": {"weight_bits": 8, "learned": False},
        "W4A8 integers": {"weight_bits": 4, "learned": False, "integers": True},
        "W4A8 floats": {"weight_bits": 4, "learned": False},
        "W4A8 floats, learned rounding": {"weight_bits": 4, "learned": True}}
    trained = [diffusion.train(seed=seed) for seed in range(seeds)]
    for name, options in ways.items():
        yield {"name": name, **_spread("distance", [_away(m, options) for m in trained])}


def _away(model: nn.Module, options: dict[str, Any]) -> float:
    mine, noise = copy.deepcopy(model), diffusion.start(512, 5)
    learned_rounding.quantize(mine, lambda m: diffusion.sample(m, diffusion.start(128, 4)), **options)
    return float((diffusion.sample(mine, noise) - diffusion.sample(model, noise)).norm(dim=1).mean())


def block_pruning(model: str, seeds: int) -> Iterator[Row]:
    twins = [vit.train(seed=seed) for seed in range(seeds)]
    batches = [vit.images(32, torch.Generator().manual_seed(9 + i))[0] for i in range(16)]
    price = {n: 3.0 for n, _ in twins[0].named_modules() if n.endswith((".up", ".down"))}
    curves = [blocks.curves(t, batches, 8, price) for t in twins]
    yield {"name": "nothing removed", "work": 1.0, "power": 1.0,
           **_spread("accuracy", [vit.accuracy(t, 1024) for t in twins])}
    ways: dict[str, Callable[[Any, float], list[int]]] = {
        "one slope": blocks.allocate, "one slope, power counts": lambda c, t: blocks.allocate(c, t, 0.02),
        "the same share everywhere": blocks.uniform}
    for target in (0.8, 0.6, 0.4):
        for name, choose in ways.items():
            picks = [choose(c, target) for c in curves]
            pairs = list(zip(curves, picks, strict=True))
            yield {"name": name, "target": target,
                   "work": statistics.fmean(_left("work", c, p) for c, p in pairs),
                   "power": statistics.fmean(_left("power", c, p) for c, p in pairs), **_spread(
                "accuracy", [_pruned(t, c, p) for t, c, p in zip(twins, curves, picks, strict=True)])}


def _left(what: str, curves: list[blocks.Curve], picks: list[int]) -> float:
    """Share of ``work`` or ``power`` that stays."""
    kept = [getattr(c, what) for c in curves]
    return sum(float(x[i]) for x, i in zip(kept, picks, strict=True)) / sum(float(x[0]) for x in kept)


def _pruned(twin: nn.Module, curves: list[blocks.Curve], picks: list[int]) -> float:
    mine = copy.deepcopy(twin)
    with torch.no_grad():
        for curve, level in zip(curves, picks, strict=True):
            weight: torch.Tensor = mine.get_submodule(curve.name).weight  # type: ignore[assignment]
            kept = blocks.kept_blocks(curve, level).repeat_interleave(8, 0).repeat_interleave(8, 1)
            weight.mul_(kept)
    return vit.accuracy(mine, 1024)


def _spread(name: str, values: list[float]) -> Row:
    return {name: statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None,
            "seeds": len(values)}


PARTS: dict[str, Callable[[str, int], Iterator[Row]]] = {
    "lmul": lmul, "vit": integer_vit, "diffusion": floats, "blocks": block_pruning}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="default: all")
    parser.add_argument("--model", default="bundled", help="of lmul")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help=f"into {RESULTS.name}, other parts stay")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for part in args.part or PARTS:
        rows = []
        print(part)
        for row in PARTS[part](args.model, args.seeds):
            rows.append(row)
            print("  " + "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) if k == "name" else
                                   f"{k} {v}" for k, v in row.items() if v is not None), flush=True)
        if args.save:
            whole = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
            whole[part] = {"torch": torch.__version__, "emulated": True, "rows": rows}
            RESULTS.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
