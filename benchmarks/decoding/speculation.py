"""The drafting methods on a widened, memory-bound copy of the bundled model: what is committed in results/.

    python benchmarks/decoding/speculation.py FOLDER [--weights bf16] [--seconds 170] [--out FILE]

FOLDER gets the copy if it is not there (about 0.5 B parameters, 1 GB). Counts do not depend on the
machine's load; times are ratios to plain decoding in the same turn. The work is done in pieces of
``--seconds``: what is done is kept beside FILE, and a second call goes on (exit code 3: not done yet).
``workbench bench decoding FOLDER`` is the same with every option; this is the set that the table shows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from workbench import zoo
from workbench.cli.common import clean
from workbench.errors import Cancelled
from workbench.runtime import load
from workbench.settings import Settings
from workbench.speculation.benchmarking import Benchmark
from workbench.speculation.prompts import bundled
from workbench.store.environment import collect
from workbench.zoo.recipes.widen import widen

METHODS = ("draft_model", "optimal_tree", "prompt_lookup", "input_copy", "token_recycling",
           "token_recycling(tree=auto)", "adaptive_tables", "medusa", "eagle", "dovetail", "hidden_transfer",
           "clover")
WIDTH, INNER = 3072, 4096


def target(folder: Path) -> Path:
    """The widened copy, made once."""
    if not (folder / "config.json").is_file():
        widen(zoo.path(zoo.DEFAULT), folder, WIDTH, ff=INNER)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="bf16")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--each", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--fallback", action="store_true", help="methods may decode plainly, as runs do")
    parser.add_argument("--kinds", nargs="+", help="of prompts (default: all)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                        help="cpu: seconds of this process, one thread: for a machine that others use")
    parser.add_argument("--seconds", type=float, default=170.0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    began = time.monotonic()
    base = Settings().with_({
        "model.source": str(target(given.folder)), "weights": given.weights, "telemetry.preset": "off",
        "telemetry.power": False, "limits.max_new_tokens": given.new, "limits.stop_at_eos": False,
        "sampling.temperature": 0.0, "compute.threads": 1 if given.clock == "cpu" else 0})
    texts = bundled(given.each)
    texts = {k: texts[k] for k in given.kinds or texts}
    model = load(base, lambda event: None)
    print(model.forward.describe(), flush=True)  # module by module, times would say something else
    bench = Benchmark(model, base, given.methods, texts, repeats=given.repeats, clock=given.clock,
                      fallback=None if given.fallback else False,
                      state=given.out.with_name(given.out.name + ".state"),
                      cancelled=lambda: time.monotonic() - began > given.seconds)
    try:
        found, whole = bench.run(), True
    except Cancelled:
        found, whole = bench.results(), False
    settings = base.with_({"model.source": "wide"}).to_dict()
    given.out.write_text(json.dumps(clean({
        "target": json.loads((given.folder / "config.json").read_text("utf-8"))["widened_copy_of"],
        "parameters": model.shape.parameters, "executor": model.forward.describe(), "settings": settings,
        "clock": given.clock, "fallback": given.fallback, "complete": whole, "environment": collect(),
        **found.to_dict()}), indent=1, default=str) + "\n", "utf-8")
    for row in found.rows:
        if row.kind == "all":
            s = row.summary
            print(f"{row.method}: {s.per_forward:.2f} tokens per forward, {s.ratio:.2f} x plain "
                  f"({s.ratio_low:.2f} to {s.ratio_high:.2f}), {s.same}/{s.runs} identical", flush=True)
    sys.exit(0 if whole else 3)


if __name__ == "__main__":
    main()
