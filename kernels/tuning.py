"""Tile shapes per GPU, found by timing on it: ``pick`` answers from a table, else with the caller's default.

    python benchmarks/gpu/tune.py            times every candidate on this GPU and writes the table

Tables ship in ``kernels/tables/NAME.json`` (one per GPU that was measured: {kernel: {key: config}}, with
the date and
the versions that they were measured with); one in ``$WORKBENCH_HOME/kernels`` wins over it. A key is a
kernel's shape
with its rows rounded up to a power of two, so decoding and small batches have rows of their own.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

TABLES = Path(__file__).parent / "tables"


def name_of(device_name: str) -> str:
    """A GPU's name as a file name: NVIDIA H200 -> nvidia-h200."""
    return "-".join(device_name.lower().split())


def key_of(m: int, n: int, k: int, **more: int) -> str:
    """``m`` rounded up to a power of two: m16 n4096 k4096 group64."""
    rows = 1 << (m - 1).bit_length()
    return " ".join(
        [f"m{rows}", f"n{n}", f"k{k}", *(f"{name}{value}" for name, value in sorted(more.items()))]
    )


def home() -> Path:
    return Path(os.environ.get("WORKBENCH_HOME", Path.home() / ".workbench")) / "kernels"


@functools.cache
def table(device_name: str) -> dict[str, dict[str, dict[str, int]]]:
    """{kernel: {key: config}}; empty for a GPU that nobody measured. A broken file is as none."""
    for folder in (home(), TABLES):
        try:
            found: dict[str, Any] = json.loads((folder / f"{name_of(device_name)}.json").read_text())
            return dict(found["kernels"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {}


def pick(kernel: str, key: str, device_name: str, default: dict[str, int]) -> dict[str, int]:
    """``default`` with what was measured for this kernel and shape on this GPU."""
    return {**default, **table(device_name).get(kernel, {}).get(key, {})}


def write(
    device_name: str,
    kernels: dict[str, dict[str, dict[str, int]]],
    about: dict[str, Any],
    folder: Path | None = None,
) -> Path:
    """Replaces this GPU's table at once, whole or not at all."""
    folder = folder or home()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name_of(device_name)}.json"
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps({"about": about, "kernels": kernels}, indent=1, sort_keys=True) + "\n")
    part.replace(path)
    table.cache_clear()
    return path
