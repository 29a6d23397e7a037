"""The machine and software a run happened on: what another person needs to judge its numbers.

No user names, host names, paths or environment variables beyond thread counts.
"""

from __future__ import annotations

import functools
import os
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "triton", "safetensors", "tokenizers", "numpy", "polars",
             "pyzmq", "msgspec", "nvidia-ml-py")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def collect() -> dict[str, Any]:
    """``versions machine cpu_governor load_average memory_available_bytes threads container``."""
    from workbench.machine import this_machine

    machine = this_machine().to_dict()
    return {
        "versions": versions(), "machine": machine, "cpu_governor": governor(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "memory_available_bytes": _available(), "memory_limit_bytes": memory_limit(),
        "threads": {k: os.environ[k] for k in _THREAD_VARIABLES if k in os.environ},
    }


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    import platform

    import workbench

    found = [("workbench", workbench.__version__), ("python", platform.python_version())]
    for name in _PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)


def versions() -> dict[str, str]:
    """Package -> version, of those installed; none is imported for it."""
    return dict(_versions())


def governor() -> str:
    """The CPU frequency policy, ``not readable`` where the system hides it."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return "not readable"


def memory_limit() -> int | None:
    """The container's memory limit, None when there is none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (Path("/sys/fs/cgroup") / name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < 1 << 60 else None
    return None


def _available() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
