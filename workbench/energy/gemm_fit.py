"""From measuring to a kept model: measure, hold out, fit, remember; and predictions from it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from workbench.energy import gemm, gemm_error, gemm_measure, gemm_store
from workbench.energy.gemm import Product
from workbench.energy.gemm_store import Fitted
from workbench.errors import WorkbenchError
from workbench.machine import Machine

#: Fewer products than this cannot be held out and fitted.
LEAST = 30
#: Largest product that is measured, FLOPs: about 50 ms on two cores, and enough to fill a GPU.
_MOST_FLOPS = {"cpu": 8e9, "cuda": 4e12}


def measure_and_fit(machine: Machine, device: str = "cpu", shapes: int = 200, seconds: float = 90.0,
                    say: Callable[[str], None] = lambda text: None,
                    cancelled: Callable[[], bool] = lambda: False) -> Fitted:
    """Measure products on the device, fit them, keep the result. Raises WorkbenchError when too few could
    be measured in the time."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise WorkbenchError("this machine has no CUDA device; use --device cpu")
    kind = "cuda" if device.startswith("cuda") else "cpu"
    sensors, why = _sensors(machine, device)
    wanted = gemm_measure.grid(shapes, ("bf16", "fp32"), _MOST_FLOPS[kind])
    found = gemm_measure.measure(
        wanted, device, seconds, lambda done, total: say(f"product {done} of {total}"), cancelled, sensors)
    for s in sensors:
        s.close()
    fitted = fit(found, device, torch.get_num_threads(), why, say)
    gemm_store.save(machine, fitted, found)
    return fitted


def fit(found: Sequence[Product], device: str, threads: int, power_reason: str = "",
        say: Callable[[str], None] = lambda text: None) -> Fitted:
    """Held-out errors first, then a model of all. Raises WorkbenchError below :data:`LEAST` products."""
    if len(found) < LEAST:
        raise WorkbenchError(f"only {len(found)} products were measured and {LEAST} are needed; allow more "
                             "time with --seconds")
    errors, pairs = gemm_error.errors(found, progress=say)
    say("fitting all products")
    time = replace(gemm.fit_time(found), band=gemm_error.band(pairs))
    power = gemm.fit_power(found)
    if power is not None:
        power = replace(power, error=gemm_error.power_error(found))
    return Fitted(time, power, "" if power else power_reason or "no power was measured beside the products",
                  [e.to_dict() for e in errors], pairs, device, threads, len(found),
                  datetime.date.today().isoformat())


def _sensors(machine: Machine, device: str) -> tuple[list[Any], str]:
    """(live counters of the device, why there are none)."""
    from workbench.telemetry import power

    prefix = "gpu" if device.startswith("cuda") else "cpu"
    mine = [s for s in power.sensors(machine) if s.status().device.startswith(prefix)]
    live = [s for s in mine if s.status().available and s.read().energy_j is not None]
    reasons = "; ".join(s.status().reason for s in mine if not s.status().available)
    return live, "" if live else reasons or f"no energy counter for {device}"


def predict(fitted: Fitted, products: Sequence[Product]) -> list[dict[str, Any]]:
    """Seconds with their 80 % band (from held-out shapes) and joules (None without measured power).

    Raises WorkbenchError for a dtype that was not measured."""
    missing = sorted({p.dtype for p in products} - set(fitted.time.physics))
    if missing:
        raise WorkbenchError(f"{', '.join(missing)} was not measured here; measured: "
                             f"{', '.join(fitted.time.physics)}")
    low, high = fitted.time.band
    seconds = [float(s) for s in fitted.time.seconds(products)] if products else []
    return [{"m": p.m, "n": p.n, "k": p.k, "dtype": p.dtype, "seconds": s,
             "low_s": s * low, "high_s": s * high,
             "joules": fitted.power.joules(p, s) if fitted.power else None}
            for p, s in zip(products, seconds, strict=True)]
