"""Opening a million-event trace and its breakdowns: time and peak memory against Holistic Trace Analysis.

    python benchmarks/traces/synthetic.py /tmp/million.json 1090000
    python benchmarks/traces/speed.py /tmp/million.json --hta VENV/bin/python --out
    benchmarks/traces/results/speed.json

Each run is a process of its own, the two alternate, and the first of each is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

_END = """
import resource
print("RESULT", end - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
_OURS = (
    """
import sys, time
start = time.perf_counter()
from workbench.traces import trace
t = trace(sys.argv[1])
t.temporal(); t.breakdown(); t.launches(); t.idle()
end = time.perf_counter()
"""
    + _END
)
_THEIRS = (
    """
import sys, time, logging, warnings
warnings.filterwarnings("ignore"); logging.disable(logging.CRITICAL)
start = time.perf_counter()
from hta.trace_analysis import TraceAnalysis
t = TraceAnalysis(trace_files={0: sys.argv[1]}, trace_dir="", include_last_profiler_step=True)
t.get_temporal_breakdown(visualize=False); t.get_gpu_kernel_breakdown(visualize=False)
t.get_cuda_kernel_launch_stats(ranks=[0], visualize=False); t.get_idle_time_breakdown(ranks=[0],
visualize=False)
end = time.perf_counter()
"""
    + _END
)


def once(python: str, code: str, path: Path) -> tuple[float, float]:
    """Seconds and peak bytes of one process."""
    done = subprocess.run(
        [python, "-c", code, str(path)], capture_output=True, text=True, timeout=900, check=False
    )
    lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT")]
    if not lines:
        raise SystemExit(done.stderr.strip().splitlines()[-1] if done.stderr else "no result")
    _, seconds, memory = lines[-1].split()
    return float(seconds), float(memory)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("trace", type=Path)
    options.add_argument("--hta", required=True, help="the Python that has HTA")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    from workbench.store.environment import collect

    found: dict[str, list[tuple[float, float]]] = {"workbench": [], "hta": []}
    for number in range(given.repeats + 1):
        for name, python, code in (("workbench", sys.executable, _OURS), ("hta", given.hta, _THEIRS)):
            seconds, memory = once(python, code, given.trace)
            print(f"{name}: {seconds:.2f} s, {memory / 2**20:.0f} MiB", file=sys.stderr)
            if number:
                found[name].append((seconds, memory))
    ratios = [h[0] / w[0] for h, w in zip(found["hta"], found["workbench"], strict=True)]
    result = {
        "command": "benchmarks/traces/speed.py",
        "bytes": given.trace.stat().st_size,
        "time_ratio": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
        "memory_ratio": max(m for _, m in found["hta"]) / max(m for _, m in found["workbench"]),
        "runs": found,
        "environment": collect(),
    }
    print(json.dumps({k: v for k, v in result.items() if k not in ("runs", "environment")}, indent=1))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
