"""The methods of the energy part against published measurements and published numbers.

    python benchmarks/energy/published.py --data FOLDER [--json FILE] [--rows 800] [--hours 168]

FOLDER holds the evaluation data (kernel-timings, vidur-operator-timings, splitwise-perf, ml-energy-v3);
what is absent is skipped and said. Sections:

- ``gemm``: the regressor on kernel timings of four GPUs, whole shapes held out;
- ``operators``: on Vidur's operator times of an A100, whole models held out;
- ``phases``: peak and mean power by prompt length (Splitwise);
- ``batch``: J/token over the batch limit, and the share of board power that serving draws, against the
  range that forecasts assume (ML.ENERGY);
- ``polca``: a modelled row against the paper's figures.

Nothing here is measured on this machine; it checks methods.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import lzma
import random
import statistics
from pathlib import Path
from typing import Any

from workbench.energy import gemm_error, polca, row
from workbench.energy.gemm import Product

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "fp8": "fp8"}
_FILES = ("a100_sxm/gemm_perf_vllm_0.14.0.csv.xz", "h100_sxm/gemm_perf_vllm_0.24.0.csv.xz",
          "l40s/gemm_perf_vllm_0.24.0.csv.xz", "b200_sxm/gemm_perf_vllm_0.24.0.csv.xz")
#: Board power of the GPU in ml-energy-v3, W (H100 SXM datasheet).
_BOARD_W = 700.0


def gemm(data: Path, rows: int) -> dict[str, Any]:
    """File -> errors by split and method; ``skipped`` for absent files."""
    found: dict[str, Any] = {}
    for name in _FILES:
        path = data / "kernel-timings" / name
        if not path.is_file():
            found[name] = "skipped: not there"
            continue
        with lzma.open(path, "rt") as file:
            timed = {(int(r["m"]), int(r["n"]), int(r["k"]), _DTYPES[r["gemm_dtype"]]): float(r["latency"])
                     for r in csv.DictReader(file) if r["gemm_dtype"] in _DTYPES}
        products = [Product(*key, seconds=ms / 1e3) for key, ms in sorted(timed.items())]
        random.Random(0).shuffle(products)
        errors, _ = gemm_error.errors(products[:rows])
        found[name] = {"of": len(products), "errors": [e.to_dict() for e in errors]}
        for e in errors:
            print(f"{name.split('/')[0]:9s} {e.split:17s} {e.method:22s} median {100 * e.median:5.1f} %  "
                  f"mean {100 * e.mean:5.1f} %  90 % {100 * e.p90:5.1f} %", flush=True)
    return found


def operators(data: Path, rows: int) -> dict[str, Any]:
    """The regressor on Vidur's A100 operator times, one whole model held out: shapes of a model that it has
    never seen, which is what a forecast asks for."""
    models = {p.name.split("_mlp")[0]: _operators(p)
              for p in sorted((data / "vidur-operator-timings" / "compute" / "a100").glob("*_mlp.csv.xz"))}
    found: dict[str, Any] = {}
    for name, mine in models.items():
        rest = [p for other, ps in models.items() if other != name for p in ps]
        rng = random.Random(0)
        train, test = rng.sample(rest, min(rows, len(rest))), rng.sample(mine, min(rows, len(mine)))
        row_ = {}
        for method, fit in gemm_error.METHODS.items():
            predicted = fit(train)(test)
            wrong = sorted(abs(float(s) / p.seconds - 1) for p, s in zip(test, predicted, strict=True))
            row_[method] = {"median": wrong[len(wrong) // 2], "p90": wrong[int(0.9 * len(wrong))]}
        found[name] = row_
        said = "  ".join(f"{m}: {100 * e['median']:.1f} %" for m, e in row_.items())
        print(f"{name:32s} {said}", flush=True)
    return found or {"skipped": "not there"}


def _operators(path: Path) -> list[Product]:
    """The four projections of a layer, per number of tokens and degree of tensor parallelism, fp16."""
    found = {}
    with lzma.open(path, "rt") as file:
        for r in csv.DictReader(file):
            tokens, tp = int(r["num_tokens"]), int(r["num_tensor_parallel_workers"])
            wide, inner = int(r["n_embd"]), int(r["n_expanded_embd"])
            heads = (int(r["n_head"]) + 2 * int(r["n_kv_head"])) * (wide // int(r["n_head"]))
            gated = 2 if r["use_gated_mlp"].lower() == "true" else 1
            for op, n, k in (("attn_pre_proj", heads // tp, wide), ("attn_post_proj", wide, wide // tp),
                             ("mlp_up_proj", gated * inner // tp, wide),
                             ("mlp_down_proj", wide, inner // tp)):
                ms = float(r[f"time_stats.{op}.median"] or 0)
                if ms > 0:
                    found[tokens, n, k] = Product(tokens, n, k, "fp16", ms / 1e3)
    return list(found.values())


def phases(data: Path) -> dict[str, Any]:
    """Prompt length -> relative peak and mean power of Llama-2-70B on 8 A100, batch 1 (Splitwise)."""
    files = sorted((data / "splitwise-perf").glob("*.csv"))
    if not files:
        return {"skipped": "not there"}
    with files[0].open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["hardware"].startswith("a100")
                and r["tensor_parallel"] == "8" and r["batch_size"] == "1" and float(r["peak_power"]) > 0]
    found = {}
    for size in sorted({int(r["prompt_size"]) for r in rows}):
        mine = [r for r in rows if int(r["prompt_size"]) == size]
        found[size] = {k: statistics.median(float(r[k]) for r in mine)
                       for k in ("peak_power", "average_power")}
    return {"power_by_prompt_tokens": found}


def batch(data: Path) -> dict[str, Any]:
    """J/token over the batch limit (ML.ENERGY v3, H100): how often it falls, and watts per board watt."""
    shares, falls, drops, off = [], 0, [], []
    pairs = 0
    for path in sorted((data / "ml-energy-v3" / "tasks").glob("*.json")):
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for c in json.loads(path.read_text())["configurations"]:
            if not all(k in c for k in ("energy_per_token_joules", "max_num_seqs", "avg_power_watts",
                                        "output_throughput_tokens_per_sec")):
                continue
            key = (c["model_id"], c["num_gpus"], c.get("tensor_parallel"), c.get("expert_parallel"),
                   c.get("data_parallel"), c["weight_precision"])
            groups.setdefault(key, []).append(c)
            shares.append(c["avg_power_watts"] / (_BOARD_W * c["num_gpus"]))
            off.append(c["avg_power_watts"] / c["output_throughput_tokens_per_sec"]
                       / c["energy_per_token_joules"] - 1)
        for members in groups.values():
            ordered = sorted(members, key=lambda c: c["max_num_seqs"])
            for a, b in itertools.pairwise(ordered):
                pairs += 1
                falls += b["energy_per_token_joules"] <= a["energy_per_token_joules"]
            if len(ordered) > 1:
                drops.append(ordered[0]["energy_per_token_joules"] / ordered[-1]["energy_per_token_joules"])
    if not shares:
        return {"skipped": "not there"}
    shares.sort()
    return {"configurations": len(shares), "pairs": pairs, "falling_pairs": falls,
            "median_ratio_smallest_to_largest_batch": statistics.median(drops),
            "share_of_board_power": {q: shares[int(q / 100 * (len(shares) - 1))] for q in (5, 50, 95)},
            "inside_forecast_range_0.35_to_1.0": sum(0.35 <= s <= 1.0 for s in shares) / len(shares),
            "power_over_throughput_against_j_per_token_median": statistics.median(off)}


def row_of_servers(hours: float) -> dict[str, Any]:
    """The paper's row: peak 79 % of what is provisioned; the rest is what the simulator says."""
    planned = row.modelled(40, hours=hours)
    watts = planned.watts()
    provisioned = float(watts.max()) / 0.79
    found = polca.sweep(lambda n: row.modelled(n, hours=hours, seed=n), 40, provisioned)
    for o in found:
        print(f"{o.servers} servers: peak {100 * o.peak_w / provisioned:.1f} %, brakes {o.brakes}, low "
              f"{100 * o.low_slowdown:.2f} %, high {100 * o.high_slowdown:.2f} %", flush=True)
    return {"hours": hours, "largest_rise_40_s": polca.largest_rise(watts, provisioned, 40, planned.step_s),
            "published": {"largest_rise_40_s": 0.118, "t2": 0.89, "brakes_at_30_percent": 0,
                          "high_slowdown_at_30_percent": "<= 1 %", "low_slowdown_at_30_percent": "<= 2 %"},
            "outcomes": [o.to_dict() for o in found]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--hours", type=float, default=168.0)
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    result = {"phases": phases(a.data), "batch": batch(a.data), "polca": row_of_servers(a.hours),
              "operators": operators(a.data, a.rows), "gemm": gemm(a.data, a.rows)}
    print(json.dumps({k: result[k] for k in ("phases", "batch")}, indent=1))
    if a.json:
        a.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
