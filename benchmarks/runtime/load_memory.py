"""The most memory that loading a model takes, against the bytes of what is loaded.

    python benchmarks/shapes.py llama-1.1b /tmp/shapes
    python benchmarks/runtime/load_memory.py /tmp/shapes/llama-1.1b [--save]

Each variant loads in a process of its own. ``bare``: the process with the runtime imported and a small model
loaded and run, before; ``peak``: its highest resident set while the model loads and writes 8 tokens.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "bf16": {"weights": "bf16"},
    "int8": {"weights": "int8", "weights.head": True},
    "int4": {"weights": "int4", "weights.head": True},
}

_ONE = """
import json, re, sys
from pathlib import Path
from workbench.runtime import load
from workbench.settings import Settings

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def resident():
    return 1024 * int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def generate(model, settings):
    model.generate(["one two three"], settings, lambda e: None, lambda: False)

changes = {"telemetry.preset": "off", "quality": "off", "limits.max_new_tokens": 8, **json.loads(sys.argv[2])}
small = Settings().with_({**changes})
model = load(small, lambda e: None)
generate(model, small)
model.close()
bare = resident()
Path("/proc/self/clear_refs").write_text("5")
settings = small.with_({"model.source": sys.argv[1]})
model = load(settings, lambda e: None)
loading = peak()
generate(model, settings)
parts = {r.tier: r for r in model.memory()}
ram = parts["ram"]
print("RESULT" + json.dumps({"bare": bare, "loading": loading, "peak": peak(), "weights": ram.weights_bytes,
                             "kv": ram.kv_bytes, "activations": ram.activations_bytes}))
"""


def once(folder: Path, changes: dict[str, Any]) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", _ONE, str(folder), json.dumps(changes)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT")]
    if not lines:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, int] = json.loads(lines[-1][6:])
    return found


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder", type=Path)
    options.add_argument("--variants", nargs="*", default=list(VARIANTS))
    options.add_argument("--save", action="store_true")
    given = options.parse_args()
    from workbench.store.environment import collect

    rows = {}
    for name in given.variants:
        row = once(given.folder, VARIANTS[name])
        held = row["weights"] + row["kv"]
        row["ratio"] = (row["peak"] - row["bare"]) / held  # type: ignore[assignment]
        rows[name] = row
        print(
            f"{name}: weights {row['weights'] / 2**20:.0f} MiB, KV {row['kv'] / 2**20:.0f} MiB, peak above "
            "the bare "
            f"process {(row['peak'] - row['bare']) / 2**20:.0f} MiB: {row['ratio']:.3f} of what is held"
        )
    if given.save:
        out = Path(__file__).with_name("load_memory.json")
        out.write_text(
            json.dumps(
                {"command": "benchmarks/runtime/load_memory.py", "rows": rows, "environment": collect()},
                indent=1,
                default=str,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
