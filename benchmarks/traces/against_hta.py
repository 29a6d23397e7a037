"""The figures of Holistic Trace Analysis and ours on the same traces, side by side.

    python benchmarks/traces/against_hta.py TRACE [TRACE ...] --hta VENV/bin/python [--out FILE]

HTA runs in an environment of its own (``pip install HolisticTraceAnalysis``); its example traces lie in its
repository
under tests/data.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl

from workbench.traces import trace

_THEIRS = """
import json, sys, warnings; warnings.filterwarnings("ignore")
import logging; logging.disable(logging.CRITICAL)
from hta.trace_analysis import TraceAnalysis
t = TraceAnalysis(trace_files={0: sys.argv[1]}, trace_dir="", include_last_profiler_step=True)
def run(f):
    try: return f()
    except Exception as e: return str(e)[:80]
def temporal():
    r = t.get_temporal_breakdown(visualize=False).iloc[0]
    return {k: float(r[k]) for k in ("idle_time(us)", "compute_time(us)", "non_compute_time(us)",
    "kernel_time(us)")}
def idle():
    r = t.get_idle_time_breakdown(ranks=[0], visualize=False)[0]
    return {str(c): float(x) for c, x in r.groupby("idle_category").idle_time.sum().items()}
def launch():
    r = t.get_cuda_kernel_launch_stats(ranks=[0], visualize=False)[0]
    return {"launches": len(r), "call_us": float(r.cpu_duration.sum()), "kernel_us":
    float(r.gpu_duration.sum()),
            "delay_us": float(r.launch_delay.sum())}
def overlap():
    r = t.get_comm_comp_overlap(visualize=False)
    return float(r.comp_comm_overlap_pctg.iloc[0])
print("RESULT" + json.dumps({"temporal": run(temporal), "idle": run(idle), "launch": run(launch), "overlap":
run(overlap)}))
"""


def theirs(python: str, path: Path) -> dict[str, object]:
    """HTA's figures of one file, in its own process; a measure that fails has its message instead."""
    done = subprocess.run(
        [python, "-c", _THEIRS, str(path)], capture_output=True, text=True, timeout=600, check=False
    )
    lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT")]
    return json.loads(lines[-1][6:]) if lines else {"failed": done.stderr.strip().splitlines()[-1:]}


def ours(path: Path) -> dict[str, object]:
    t = trace(path)
    times, launches = t.temporal(), t.launches()
    first = times.row(0, named=True) if len(times) else {}
    idle = dict(t.idle(begun=True).group_by("cause").agg(pl.col("idle_us").sum()).rows())
    over = t.overlap()
    return {
        "temporal": {
            "idle_time(us)": first.get("idle_us"),
            "compute_time(us)": first.get("compute_us"),
            "non_compute_time(us)": first.get("non_compute_us"),
            "kernel_time(us)": first.get("span_us"),
        },
        "idle": {
            "host_wait": idle.get("host", 0.0),
            "kernel_wait": idle.get("kernel", 0.0),
            "other": idle.get("other", 0.0),
        },
        "launch": {
            "launches": len(launches),
            "call_us": launches["call_us"].sum(),
            "kernel_us": launches["kernel_us"].sum(),
            "delay_us": launches["delay_us"].clip(0.0).sum(),
        },
        "overlap": 100 * over["hidden_share"][0] if len(over) else None,
    }


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("traces", nargs="+", type=Path)
    options.add_argument("--hta", required=True, help="the Python that has HTA")
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    rows = []
    for path in given.traces:
        plain = path
        with tempfile.TemporaryDirectory() as folder:
            if path.suffix == ".gz":  # HTA asks for a rank in the file's name or inside
                plain = Path(folder) / "trace_rank0.json"
                plain.write_bytes(gzip.decompress(path.read_bytes()))
            row = {"trace": path.name, "hta": theirs(given.hta, plain), "workbench": ours(plain)}
        rows.append(row)
        print(json.dumps(row, indent=1), file=sys.stderr)
    if given.out:
        given.out.write_text(
            json.dumps({"command": "benchmarks/traces/against_hta.py", "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
