"""Does the badge come with a neighbour, and only then?

    python benchmarks/profile/neighbours.py [--repeats 8] [--json FILE]
    python benchmarks/profile/neighbours.py --engine [--pairs 10] [--json FILE]

By default a thread computes on one core beside 0 to 3 busy processes on the same one. A thread that
only computes would alone take its own CPU time, so the truth is wall time over CPU time, also where
strangers are at work; the sampler's estimate and the badge are compared with it.

``--engine``: pairs of real runs, alone and beside one busy process per core. The truth is who ran beside
us, so this needs a machine that is quiet otherwise; runs alone that strangers disturbed are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", action="store_true")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    result = engine(chosen.pairs, chosen.tokens) if chosen.engine else core(chosen.repeats)
    text = json.dumps(result, indent=1)
    print(text)
    if chosen.json:
        chosen.json.write_text(text + "\n")


def core(repeats: int) -> dict[str, Any]:
    """One thread on one core; truth against estimate."""
    from workbench.analysis.interference import LEAST, disturbance
    from workbench.fingerprint.classifier import wilson
    from workbench.telemetry.neighbours import Neighbours

    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    rows: list[dict[str, Any]] = []
    for _ in range(repeats):
        for count in (-1, 0, 1, 2, 3):
            # -1: alone and, where the system permits it, before everybody else's work.
            prefer(-20 if count < 0 else 0)
            events: list[Any] = []
            zero = time.perf_counter()
            watch = Neighbours(events.append, lambda zero=zero: time.perf_counter() - zero)
            with Busy(max(0, count)):
                watch.start()
                began, used = time.perf_counter(), time.thread_time()
                while time.perf_counter() < began + 1.5:
                    sum(range(1000))
                truth = (time.perf_counter() - began) / (time.thread_time() - used)
                watch.stop()
            found = disturbance(events)
            rows.append({"neighbours": count, "truth": truth, "estimated": found.slowdown,
                         "badge": bool(found.badge)})
            print(rows[-1], file=sys.stderr, flush=True)
    disturbed = [r["badge"] for r in rows if 1 / r["truth"] < LEAST]
    calm = [r["badge"] for r in rows if 1 / r["truth"] >= LEAST]
    errors = sorted(abs(r["estimated"] / r["truth"] - 1) for r in rows if r["estimated"])
    return {"disturbed": len(disturbed), "recall": share(disturbed),
            "recall_95": wilson(sum(disturbed), len(disturbed)), "calm": len(calm),
            "false_alarms": share(calm), "false_alarms_95": wilson(sum(calm), len(calm)),
            "median_error": statistics.median(errors), "largest_error": errors[-1], "rows": rows}


def prefer(nice: int) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)


def share(flags: list[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def engine(pairs: int, tokens: int) -> dict[str, Any]:
    """Real runs, alone and beside busy processes, in changing order."""
    import workbench as wb
    from workbench.analysis.interference import disturbance, mean
    from workbench.events import Interference
    from workbench.fingerprint.classifier import wilson
    from workbench.store import Store

    rows = []
    with tempfile.TemporaryDirectory() as folder, wb.open(store=Store(folder)) as bench:
        bench.run("def f(x):", wait=True)
        for pair in range(pairs):
            for beside in ((False, True) if pair % 2 else (True, False)):
                with Busy(os.cpu_count() or 1 if beside else 0):
                    run = bench.run("def f(x):", wait=True, **{
                        "limits.max_new_tokens": tokens, "limits.stop_at_eos": False})
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
    return {
        "alone": len(alarms), "not_alone_left_out": len(strangers),
        "recall": sum(hits) / len(hits), "recall_95": wilson(sum(hits), len(hits)),
        "false_alarms": sum(alarms) / len(alarms), "false_alarms_95": wilson(sum(alarms), len(alarms)),
        "median_measured_slowdown": statistics.median(r["measured"] for r in rows if r["beside"]),
        "median_estimated_slowdown": statistics.median(
            r["estimated"] or 1.0 for r in rows if r["beside"]),
        "median_estimated_alone": statistics.median(r["estimated"] or 1.0 for r in rows if not r["beside"]),
        "rows": rows}


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
