"""How much of rounding's perplexity gap calibration closes, on the bundled model.

Regime: quality only. Every scheme's exact code values are put into the float32 model and scored on the
same held-out tokens (the bundled evaluation documents and the held-out standard-library modules, windows
of 512), so differences are paired. gap: mean negative log-likelihood minus that of the untouched model,
nats per token; closed: 1 - gap / gap of rounding to nearest on the same grid. Errors: batch means over
blocks of 32 tokens; for ``closed`` a bootstrap over the same blocks. Calibration text is never
evaluation text.

    python benchmarks/compression/gptq.py                    # prints a table
    python benchmarks/compression/gptq.py --save             # and puts its rows into results/gptq.json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench import zoo
from workbench.calibration.grids import dequantize
from workbench.calibration.prepared import Prepared, prepare
from workbench.calibration.recipe import Recipe
from workbench.quality.statistics import mean_and_error
from workbench.settings import Settings

WINDOW, BLOCK, DRAWS = 512, 32, 2000
METHODS: dict[str, dict[str, Any]] = {
    "nearest": {"rounding": "nearest"},
    "nearest, clip": {"rounding": "nearest", "clip": True},
    "gptq": {"act_order": False},
    "gptq, act-order": {},
    "gptq, clip": {"act_order": False, "clip": True},
    "gptq, act-order, clip": {"clip": True},
    "awq, nearest, clip": {"rounding": "nearest", "scaling": True, "clip": True},
    "awq, gptq, act-order, clip": {"scaling": True, "clip": True},
    "rotated, nearest": {"rounding": "nearest", "rotation": True},
    "rotated, gptq, act-order, clip": {"rotation": True, "clip": True},
}


def windows(name: str) -> list[torch.Tensor]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(zoo.path(name))
    found = []
    for document in zoo.evaluation_text(stdlib=True):
        ids = torch.tensor(tokenizer(document.text)["input_ids"])
        found += [w for w in ids.split(WINDOW) if len(w) > BLOCK]
    return found


def log_probabilities(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """[tokens - 1, vocabulary] float32."""
    with torch.inference_mode():
        found: torch.Tensor = model(ids[None]).logits[0, :-1].float().log_softmax(-1)
    return found


def score(model: Any, texts: list[torch.Tensor], base: list[torch.Tensor]
          ) -> tuple[np.ndarray, np.ndarray]:
    """Per token but each window's first: negative log-likelihood, and KL from ``base``, nats."""
    nll, kl = [], []
    for ids, theirs in zip(texts, base, strict=True):
        mine = log_probabilities(model, ids)
        nll.append(-mine.gather(1, ids[1:, None])[:, 0])
        kl.append((theirs.exp() * (theirs - mine)).sum(-1))
    return torch.cat(nll).double().numpy(), torch.cat(kl).double().numpy()


def install(model: Any, prepared: Prepared) -> None:
    """The prepared model's exact values into a float32 model (an untied copy of the head if it has one)."""
    state = model.state_dict()
    with torch.no_grad():
        for name in prepared.matrices():
            q, pairs = prepared.codes(name)
            state[f"{name}.weight"].copy_(dequantize(q, pairs, prepared.recipe.bits))
        for name in prepared.parameters():
            value = prepared.parameter(name)
            assert value is not None
            if name == "lm_head.weight":
                model.lm_head.weight = torch.nn.Parameter(value.float())
            else:
                state[name].copy_(value)


def fresh(name: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(zoo.path(name), dtype=torch.float32).eval()


def closed(gap: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """Share of ``base``'s mean that ``gap``'s mean lacks, and its bootstrap error over blocks."""
    n = len(gap) // BLOCK * BLOCK
    a, b = (x[:n].reshape(-1, BLOCK).mean(1) for x in (gap, base))
    at = np.random.default_rng(0).integers(0, len(a), (DRAWS, len(a)))
    drawn = 1 - a[at].mean(1) / b[at].mean(1)
    return float(1 - gap.mean() / base.mean()), float(drawn.std())


def rows(name: str, bits: list[int], groups: list[int], samples: int, length: int, methods: list[str],
         known: list[dict[str, Any]] | None = None) -> Iterator[dict[str, Any]]:
    """``known``: rows of earlier runs, which are not measured again (but for each grid's first method, which
    the others are compared with)."""
    there = {(r["bits"], r["group"], r["method"], r["samples"]) for r in known or []}
    settings = Settings().with_({"model.source": name})
    texts = windows(name)
    untouched = fresh(name)
    original = [log_probabilities(untouched, ids) for ids in texts]
    base = -torch.cat([p.gather(1, ids[1:, None])[:, 0] for p, ids in zip(original, texts, strict=True)]
                      ).double().numpy()
    none = np.zeros_like(base)
    yield row("float32", base, none, base, base, None, 32.0, 0.0)
    for b in bits:
        for group in groups:
            nearest = None
            for label in methods:
                changes = METHODS[label]
                # rounding to nearest needs no statistics, so the least text and one pass do
                light = changes.get("rounding") == "nearest" and not changes.get("scaling")
                recipe = Recipe(bits=b, group=group, samples=-(-256 // length) if light else samples,
                                length=length, sequential=changes.get("rounding") != "nearest", **changes)
                if nearest is not None and (b, group, label, recipe.samples) in there:
                    continue
                began = time.perf_counter()
                prepared = prepare(settings, recipe, lambda e: None)
                seconds = time.perf_counter() - began
                model = fresh(name)
                install(model, prepared)
                nll, kl = score(model, texts, original)
                nearest = nll - base if nearest is None else nearest
                yield row(label, nll, kl, base, nearest, recipe, b + 32 / group, seconds)


def row(label: str, nll: np.ndarray, kl: np.ndarray, base: np.ndarray, nearest: np.ndarray,
        recipe: Recipe | None, width: float, seconds: float) -> dict[str, Any]:
    divergence, divergence_se = mean_and_error(kl)
    gap, gap_se = mean_and_error(nll - base)
    share, share_se = closed(nll - base, nearest) if recipe is not None else (0.0, 0.0)
    return {"method": label, "bits": recipe.bits if recipe else 32, "group": recipe.group if recipe else 0,
            "bits_per_weight": width, "perplexity": float(np.exp(nll.mean())), "tokens": len(nll),
            "kl_nats": divergence, "kl_se": divergence_se, "gap_nats": gap, "gap_se": gap_se,
            "closed": share, "closed_se": share_se, "samples": recipe.samples if recipe else 0,
            "calibration_s": round(seconds, 1)}


def show(r: dict[str, Any]) -> None:
    print(f"{r['bits']} bits group {r['group']:4d}  {r['method']:28s} ppl {r['perplexity']:8.3f}  "
          f"KL {r['kl_nats']:.5f}  "
          f"gap {r['gap_nats']:.4f} +- {r['gap_se']:.4f}  closed {r['closed']:6.1%} +- {r['closed_se']:.1%}"
          f"  ({r['calibration_s']} s)", flush=True)


def kept(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier run with this model, length and torch."""
    found = json.loads(path.read_text()) if path.is_file() else {"about": {}, "rows": []}
    same = all(found["about"].get(k) == about[k] for k in ("model", "length", "torch"))
    return list(found["rows"]) if same else []


def merge(path: Path, about: dict[str, Any], result: dict[str, Any]) -> None:
    """The row replaces the one of the same scheme."""
    kept = json.loads(path.read_text())["rows"] if path.is_file() else []
    found = {(r["bits"], r["group"], r["method"]): r for r in [*kept, result]}
    ordered = sorted(found.values(), key=lambda r: (-r["bits"], r["group"], r["kl_nats"]))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"about": about, "rows": ordered}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=zoo.DEFAULT)
    parser.add_argument("--bits", default="4,3")
    parser.add_argument("--groups", default="64")
    parser.add_argument("--methods", help="a part of them, with semicolons; the first is the baseline")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--again", action="store_true", help="measure what the file has, too")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gptq.json",
                        help="where --save puts its rows; a stopped run goes on from them")
    args = parser.parse_args()
    torch.manual_seed(0)
    about = {"model": args.model, "samples": args.samples, "length": args.length,
             "python": platform.python_version(), "torch": torch.__version__,
             "threads": torch.get_num_threads(),
             "note": "calibration_s on a machine with other work; near 0 where the cache had it"}
    path = args.out
    methods = args.methods.split(";") if args.methods else list(METHODS)
    for result in rows(args.model, [int(b) for b in args.bits.split(",")],
                       [int(g) for g in args.groups.split(",")], args.samples, args.length, methods,
                       kept(path, about) if args.save and not args.again else None):
        show(result)
        if args.save:
            merge(path, about, result)


if __name__ == "__main__":
    main()
