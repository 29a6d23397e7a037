"""The fitted model of this machine's matrix products, kept beside its ceilings."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.energy import gemm
from workbench.energy.gemm import PowerModel, Product, TimeModel
from workbench.machine import Machine, home


@dataclass(frozen=True)
class Fitted:
    """``errors``: rows of :class:`gemm_error.Error`, measured on held-out products; ``power_reason``:
    why there is no power model. ``count`` products in ``threads`` threads on ``device``."""

    time: TimeModel
    power: PowerModel | None
    power_reason: str
    errors: list[dict[str, Any]]
    pairs: list[tuple[float, float]]
    device: str
    threads: int
    count: int
    measured_on: str


def path_of(machine: Machine, device: str) -> Path:
    kind = "gpu" if device.startswith("cuda") else "cpu"
    return home() / "gemm" / f"{machine.fingerprint}-{kind}.json"


def save(machine: Machine, fitted: Fitted, products: Sequence[Product]) -> Path:
    """Atomically, with the measurements, so that a later version can fit them again. Raises OSError."""
    path = path_of(machine, fitted.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {**gemm.to_dict(fitted.time, fitted.power), "power_reason": fitted.power_reason,
            "errors": fitted.errors, "pairs": fitted.pairs, "device": fitted.device,
            "threads": fitted.threads, "count": fitted.count, "measured_on": fitted.measured_on,
            "products": [asdict(p) for p in products]}
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps(data))
    aside.replace(path)
    return path


def load(machine: Machine, device: str = "cpu") -> Fitted | None:
    """None when nothing was measured here, or the file is damaged."""
    path = path_of(machine, device)
    try:
        return _load(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


@functools.lru_cache(maxsize=4)
def _load(path: Path, changed: int) -> Fitted:
    data = json.loads(path.read_text())
    time, power = gemm.from_dict(data)
    return Fitted(time, power, data["power_reason"], data["errors"], [tuple(p) for p in data["pairs"]],
                  data["device"], data["threads"], data["count"], data["measured_on"])
