"""Does the badge come with a neighbour, and only then? Real runs of the engine, in turn.

    python benchmarks/profile/neighbours.py [--pairs 10] [--json FILE]

Each pair is one run alone and one beside busy processes (one per core), in changing order. The truth is
who ran beside us; the estimate of the slowdown is compared with the measured one (median tok/s alone
over this run's). Needs a machine that is quiet otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    import workbench as wb
    from workbench.analysis.interference import disturbance, mean
    from workbench.events import Interference
    from workbench.fingerprint.classifier import wilson
    from workbench.store import Store

    rows = []
    with tempfile.TemporaryDirectory() as folder, wb.open(store=Store(folder)) as bench:
        bench.run("def f(x):", wait=True)
        for pair in range(chosen.pairs):
            for beside in ((False, True) if pair % 2 else (True, False)):
                with Busy(os.cpu_count() or 1 if beside else 0):
                    run = bench.run("def f(x):", wait=True, **{
                        "limits.max_new_tokens": chosen.tokens, "limits.stop_at_eos": False})
                found = disturbance(run.events)
                others = mean([e for e in run.events if isinstance(e, Interference)], "others") or 0.0
                rows.append({"beside": beside, "others": others, "tok_per_s": run.metrics["tok_per_s"].value,
                             "badge": bool(found.badge), "estimated": found.slowdown})
                print(rows[-1], file=sys.stderr, flush=True)
    # Somebody else's work on this machine makes "alone" untrue: those rows are counted apart.
    strangers = [r for r in rows if not r["beside"] and r["others"] > 0.1]
    rows = [r for r in rows if r not in strangers]
    if not any(not r["beside"] for r in rows):
        raise SystemExit("strangers were at work in every run alone; this machine is not quiet enough")
    alone = statistics.median(r["tok_per_s"] for r in rows if not r["beside"])
    for r in rows:
        r["measured"] = alone / r["tok_per_s"]
    hits = [r["badge"] for r in rows if r["beside"]]
    alarms = [r["badge"] for r in rows if not r["beside"]]
    result = {
        "alone": len(alarms), "not_alone_left_out": len(strangers),
        "recall": sum(hits) / len(hits), "recall_95": wilson(sum(hits), len(hits)),
        "false_alarms": sum(alarms) / len(alarms), "false_alarms_95": wilson(sum(alarms), len(alarms)),
        "median_measured_slowdown": statistics.median(r["measured"] for r in rows if r["beside"]),
        "median_estimated_slowdown": statistics.median(
            r["estimated"] or 1.0 for r in rows if r["beside"]),
        "median_estimated_alone": statistics.median(r["estimated"] or 1.0 for r in rows if not r["beside"]),
        "rows": rows}
    text = json.dumps(result, indent=1)
    print(text)
    if chosen.json:
        chosen.json.write_text(text + "\n")


class Busy:
    """``count`` processes that do nothing but keep a core."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> None:
        self._started = [subprocess.Popen([sys.executable, "-c", "while True: pass"])
                         for _ in range(self._count)]
        time.sleep(0.3)

    def __exit__(self, *_: object) -> None:
        for p in self._started:
            p.kill()
            p.wait()


if __name__ == "__main__":
    main()
