"""Throughput over the batch: plain decoding against speculation, and where they cross.

    python benchmarks/decoding/batch.py [--model bundled] [--batches 1,2,4,8,16] [--new 64] [--out FILE]
    python benchmarks/decoding/batch.py --model WIDENED --new 32 --methods prompt_lookup token_recycling \
        draft_model --resume --seconds 100 --out benchmarks/decoding/results/batch_widened.json

The same sixteen prompts at every batch size, cut into batches. Tokens per second of all sequences from the
end of the prefill to the last token; end tokens are ignored, so that every run does the same work. Methods
take turns on every batch of prompts; a ratio is a method's throughput over plain decoding's on the same
prompts, and its quartiles are over the batches of prompts. ``crossover``: the batch at which a method falls
to plain decoding's throughput, between two measured ones by the logarithm; None where it does not. Schedules
(``equal``: EQSPEC, ``grouped``: EXSPEC, arXiv:2510.22876) are compared for one method. The texts are compared
with plain decoding's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from workbench import zoo
from workbench.events import Effective, Phase, Token
from workbench.runtime import load
from workbench.settings import Settings
from workbench.store.environment import collect

#: Seconds are those of the wall clock, or of this process on any core (``--clock cpu``).
CLOCK = "wall"
METHODS: dict[str, dict[str, Any]] = {
    "plain": {"decoding": "plain"},
    "prompt_lookup": {"decoding": "prompt_lookup", "decoding.fallback": False},
    "token_recycling": {"decoding": "token_recycling", "decoding.fallback": False},
    "draft_model": {"decoding": "draft_model", "decoding.fallback": False},
    "draft_model, 8 tokens": {"decoding": "draft_model", "decoding.gamma": 8, "decoding.fallback": False},
    "draft_model, up to 8 tokens": {"decoding": "draft_model", "decoding.gamma": 8,
                                    "decoding.fallback": False, "decoding.length": "auto"},
    "token_recycling with fallback": {"decoding": "token_recycling"},
    "token_recycling, equal": {"decoding": "token_recycling", "decoding.fallback": False,
                               "decoding.schedule": "equal"},
    "token_recycling, grouped": {"decoding": "token_recycling", "decoding.fallback": False,
                                 "decoding.schedule": "grouped"},
}


def prompts(count: int) -> list[str]:
    """Bundled prompts, every kind in turn."""
    kinds: dict[str, list[str]] = {}
    for prompt in zoo.prompts():
        kinds.setdefault(prompt.kind, []).append(prompt.text)
    depth = max(map(len, kinds.values()))
    turns = [texts[i] for i in range(depth) for texts in kinds.values() if i < len(texts)]
    return turns[:count]


def once(model: Any, settings: Settings, texts: list[str], changes: dict[str, Any]) -> dict[str, Any]:
    """One run: tokens and seconds of decoding, acceptance, what the schedule and the fallback did."""
    events: list[Any] = []
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[CLOCK]
    times = {"prefill": 0.0, "token": 0.0}

    def emit(event: Any) -> None:
        if isinstance(event, Phase) and event.phase == "prefill":
            times["prefill"] = clock()
        elif isinstance(event, Token):
            times["token"] = clock()
        events.append(event)

    out = model.generate(texts, settings.with_({"limits.batch": len(texts), **changes}), emit, lambda: False)
    tokens = [e for e in events if isinstance(e, Token) and e.index > 0]
    said = {e.path: e.effective for e in events if isinstance(e, Effective)}
    return {"count": len(tokens), "seconds": times["token"] - times["prefill"],
            "mean_accepted": out.mean_accepted, "tokens": out.tokens,
            "schedule": said.get("decoding.schedule"),
            "fallback": said.get("decoding.fallback")}


def measure(model: Any, settings: Settings, batch: int, least: int) -> dict[str, dict[str, Any]]:
    """Every method in turns on every batch of prompts, ``least`` batches at least."""
    texts = prompts(16)
    groups = [texts[i:i + batch] for i in range(0, 16, batch)]
    groups *= max(1, -(-least // len(groups)))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    names = list(METHODS)
    for turn, group in enumerate([groups[0], *groups]):  # the first warms up
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            found = once(model, settings, group, METHODS[name])
            if turn:
                runs[name].append(found)
    return {name: _summary(mine, runs["plain"]) for name, mine in runs.items()}


def _summary(mine: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    def rate(runs: list[dict[str, Any]]) -> float:
        return float(sum(r["count"] for r in runs) / sum(r["seconds"] for r in runs))

    pairs = [rate([m]) / rate([p]) for m, p in zip(mine, plain, strict=True)]
    same = sum(a == b for m, p in zip(mine, plain, strict=True)
               for a, b in zip(m["tokens"], p["tokens"], strict=True))
    return {"tok_s": rate(mine), "ratio": rate(mine) / rate(plain),
            "quartiles": statistics.quantiles(pairs, n=4, method="inclusive") if len(pairs) > 1 else None,
            "mean_accepted": statistics.fmean(r["mean_accepted"] for r in mine),
            "schedule": mine[-1]["schedule"], "fallback": mine[-1]["fallback"],
            "same_texts": same, "texts": sum(len(m["tokens"]) for m in mine)}


def crossover(ratios: dict[int, float]) -> float | None:
    """The batch at which the ratio falls to 1, by the logarithm between two measured batches."""
    batches = sorted(ratios)
    for low, high in itertools.pairwise(batches):
        if ratios[low] >= 1 > ratios[high]:
            part = (ratios[low] - 1) / (ratios[low] - ratios[high])
            return 2 ** (math.log2(low) + part * (math.log2(high) - math.log2(low)))
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--weights", default="bf16")
    parser.add_argument("--batches", default="1,2,4,8,16")
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--least", type=int, default=3, help="batches of prompts at least")
    parser.add_argument("--methods", nargs="+", help="some of the methods (plain is always there)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--resume", action="store_true", help="keep the batches that are in the file")
    parser.add_argument("--seconds", type=float, default=math.inf,
                        help="begin no other batch size after so many (exit code 3: some are missing)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("batch.json"))
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                        help="cpu: tokens per second of processor time, for machines that others use too; "
                             "one thread")
    given = parser.parse_args()
    globals()["CLOCK"] = given.clock
    threads = 1 if given.clock == "cpu" else given.threads
    for name in [n for n in METHODS if given.methods and n != "plain" and n not in given.methods]:
        del METHODS[name]
    settings = Settings().with_({
        "model.source": given.model, "weights": given.weights, "limits.max_new_tokens": given.new,
        "limits.stop_at_eos": False, "telemetry.preset": "off", "compute.threads": threads,
        "sampling.temperature": given.temperature})
    began = time.monotonic()
    model = load(settings, lambda event: None)
    print(model.forward.describe(), flush=True)  # module by module, times would say something else
    told = {"model": Path(given.model).name, "weights": given.weights, "new_tokens": given.new,
            "temperature": given.temperature, "clock": given.clock, "threads": threads,
            "executor": model.forward.describe()}
    results: dict[int, dict[str, dict[str, Any]]] = {}
    crossings: dict[str, float | None] = {}
    if given.resume and given.out.exists():
        before = json.loads(given.out.read_text())
        if all(before.get(k) == v for k, v in told.items()):
            results = {int(b): r for b, r in before["results"].items() if METHODS.keys() <= r.keys()}
    for batch in map(int, given.batches.split(",")):
        if batch in results:
            continue
        if time.monotonic() - began > given.seconds:
            sys.exit(3)
        results[batch] = measure(model, settings, batch, given.least)
        print(f"batch {batch:3}", "  ".join(
            f"{name} {r['tok_s']:.0f} tok/s ({r['ratio']:.2f}x, {r['mean_accepted']:.2f})"
            for name, r in results[batch].items()), flush=True)
        crossings = {name: crossover({b: r[name]["ratio"] for b, r in results.items()})
                     for name in METHODS if name != "plain"}
        given.out.write_text(json.dumps({**told, "environment": collect(), "crossover": crossings,
                                         "results": dict(sorted(results.items()))}, indent=1) + "\n")
    print({n: c if c is None else round(c, 1) for n, c in crossings.items()})


if __name__ == "__main__":
    main()
