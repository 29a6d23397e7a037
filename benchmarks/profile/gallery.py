"""Every stand-in of the gallery under the profiler: time, attribution, FLOPs, bytes, memory.

    python benchmarks/profile/gallery.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    import workbench as wb
    from workbench import gallery
    from workbench.analysis import modules as of
    from workbench.events import Kernel, KernelWindow
    from workbench.store import Store

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in gallery.names():
            module, inputs = gallery.make(name)
            run = wb.profile(module, inputs, steps=chosen.steps, name=name, power=False, store=Store(folder))
            step, parts = of.step(run.events), of.by_operator(run.events)
            assert step is not None
            whole = sum(w.end_s - w.start_s for w in run.events if isinstance(w, KernelWindow))
            given = sum(k.total_s for k in run.events if isinstance(k, Kernel))
            rows.append({
                "name": name, "parameters": sum(p.numel() for p in module.parameters()),
                "forward_ms": 1e3 * step.p50_s, "spread": step.spread, "attributed": given / whole,
                "python_share": of.python_share(run.events), "first": parts[0].name,
                "mflop": sum(p.flops for p in parts) / 1e6, "mb": sum(p.bytes for p in parts) / 1e6,
                "activations_kb": (of.peak_activations(run.events) or 0) / 1e3})
            r = rows[-1]
            print(f"{name:26} {r['forward_ms']:8.2f} ms  {100 * r['attributed']:6.2f} %  "
                  f"{100 * (r['python_share'] or 0):5.1f} % python  {r['mflop']:9.2f} MFLOP  {r['first']}")
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
