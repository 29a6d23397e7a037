"""What a decoding step costs besides the model's forward, and what a drafted token costs.

Regime: batch 1, one CPU thread, the bundled model and draft. Bound: Python and operation launches,
not arithmetic. Three numbers, medians over interleaved repeats:

    outside_s     gap between two tokens minus the forward: mask, ids, argmax, text, events
    draft_hf_s    one draft token through transformers' own modules
    draft_lean_s  one draft token through workbench.runtime.lean

    python benchmarks/runtime/host_overhead.py              # prints one line of JSON
    python benchmarks/runtime/host_overhead.py --save       # and writes host_overhead.json beside it
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from workbench.events import Phase, Token
from workbench.runtime import load
from workbench.runtime.cache import full_cache
from workbench.runtime.forward import Forward
from workbench.runtime.lean import lighten
from workbench.runtime.loading import load_model
from workbench.settings import Settings


def outside(model: Any, settings: Settings) -> tuple[float, float]:
    """(seconds outside the forward per token, seconds of the forward), medians of one run."""
    events: list[Any] = []
    model.generate(["def add(a, b):"], settings, events.append, lambda: False)
    forwards = [e.end_s - e.start_s for e in events if isinstance(e, Phase) and e.phase == "decode"]
    times = [e.t_s for e in events if isinstance(e, Token)]
    gaps = [b - a for a, b in itertools.pairwise(times)]  # the n-th gap holds the n-th forward
    rest = [gap - inside for gap, inside in zip(gaps, forwards, strict=True)]
    return statistics.median(rest[1:]), statistics.median(forwards[1:])


def per_token(forward: Any, tokens: int = 100) -> float:
    """Median seconds of a one-row forward."""
    cache = full_cache(forward.config, 1, tokens, forward.device, forward.dtype)
    masks = forward.masks([0], tokens)
    ids, found = torch.zeros(1, 1, dtype=torch.long), []
    with torch.inference_mode():
        for i in range(tokens):
            began = time.perf_counter()
            forward(ids, ids + i, masks.rows(i, 1), cache, 1)
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    settings = Settings().with_({"limits.max_new_tokens": 96, "limits.stop_at_eos": False,
                                 "compute.threads": 1})
    model = load(settings, lambda event: None)
    loaded = load_model(settings.with_({"model.source": "wb-1m"}), lambda event: None)
    plain = Forward(loaded.model, loaded.device, loaded.dtype)
    lean = lighten(plain)
    rows = []
    for _ in range(arguments.repeats):
        rows.append((*outside(model, settings), per_token(plain), per_token(lean)))
    names = ("outside_s", "forward_s", "draft_hf_s", "draft_lean_s")
    result: dict[str, Any] = {n: spread([r[i] for r in rows]) for i, n in enumerate(names)}
    result["draft_lean_over_hf"] = spread([r[3] / r[2] for r in rows])
    result["environment"] = {"torch": torch.__version__, "python": platform.python_version(),
                             "processor": _cpu(), "threads": 1, "repeats": arguments.repeats,
                             "load_average": os.getloadavg()[0]}
    print(json.dumps(result))
    if arguments.save:
        Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


def _cpu() -> str:
    from workbench.machine import this_machine

    return this_machine().cpu


if __name__ == "__main__":
    main()
