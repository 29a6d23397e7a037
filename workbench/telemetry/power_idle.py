"""Idle power: what a device draws when nothing of ours runs, measured and remembered.

A GPU with a live context idles higher than one without (an H100 about 120 against 70 W), so a baseline
says whether a model was loaded. What was measured is kept per machine in ``$WORKBENCH_HOME/power``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from workbench.events import Power, SensorStatus
from workbench.machine import Machine, home

#: How often sensors are read while idle power is measured.
_STEP_S = 0.1


@dataclass(frozen=True)
class Idle:
    """``watts`` ± ``se_w`` over ``seconds``. ``others``: share of the load that others had meanwhile."""

    watts: float
    se_w: float
    seconds: float
    basis: str
    others: float | None = None


def told(status: SensorStatus, idle: dict[tuple[str, str], Idle]) -> SensorStatus:
    """The status with this sensor's idle power, if it is known."""
    found = idle.get((status.device, status.source))
    if found is None:
        return status
    return msgspec.structs.replace(status, idle_w=found.watts, idle_se_w=found.se_w,
                                   idle_basis=found.basis)


def measure(found: list[Any], seconds: float, basis: str,
            cancelled: Callable[[], bool] = lambda: False,
            progress: Callable[[float], None] = lambda share: None, load: Any = None
            ) -> dict[tuple[str, str], Idle]:
    """Mean power of each live sensor over ``seconds`` in which the caller does nothing.

    Stops early when ``cancelled()``; what is shorter than a second gives no figure."""
    series: dict[tuple[str, str], list[tuple[float, Power]]] = {}
    began = time.monotonic()
    while (now := time.monotonic()) - began < seconds and not cancelled():
        if load is not None:
            load.update()
        for sensor in found:
            with contextlib.suppress(Exception):
                reading = sensor.read()
                series.setdefault((reading.device, reading.source), []).append((now, reading))
        progress((now - began) / seconds)
        time.sleep(_STEP_S)
    result = {}
    for key, readings in series.items():
        figure = mean_power(readings)
        if figure is not None:
            others = [r.others for _, r in readings if r.others is not None]
            result[key] = Idle(*figure, seconds=readings[-1][0] - readings[0][0], basis=basis,
                               others=sum(others) / len(others) if others else None)
    return result


def mean_power(readings: list[tuple[float, Power]]) -> tuple[float, float] | None:
    """(W, standard error) of one sensor's readings; None below one second or three readings.

    Watts per interval between readings (or per reading, without a counter); neighbours in time are
    alike, so the error is taken over blocks of half a second."""
    if len(readings) < 3 or readings[-1][0] - readings[0][0] < 1.0:
        return None
    counted = [(t, r.energy_j) for t, r in readings if r.energy_j is not None]
    if len(counted) >= 3:
        blocks = counted[::max(1, round(0.5 / _STEP_S))]
        blocks = blocks if blocks[-1] is counted[-1] else [*blocks, counted[-1]]
        watts = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(blocks) if b[0] > a[0]]
        mean = (counted[-1][1] - counted[0][1]) / (counted[-1][0] - counted[0][0])
    else:
        every = [w for _, r in readings
                 if (w := r.instant_w if r.instant_w is not None else r.average_w) is not None]
        if len(every) < 3:
            return None
        size = max(1, round(0.5 / _STEP_S))
        watts = [statistics.fmean(every[i:i + size]) for i in range(0, len(every), size)]
        mean = statistics.fmean(every)
    spread = statistics.stdev(watts) if len(watts) > 1 else 0.0
    return mean, spread / math.sqrt(max(1, len(watts)))


def path_of(machine: Machine) -> Path:
    return home() / "power" / f"{machine.fingerprint}.json"


def load(machine: Machine) -> dict[tuple[str, str], Idle]:
    """What was measured on this machine; empty when nothing was, or the file is damaged."""
    try:
        rows = json.loads(path_of(machine).read_text())["idle"]
        return {(r.pop("device"), r.pop("source")): Idle(**r) for r in rows}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def save(machine: Machine, idle: dict[tuple[str, str], Idle]) -> Path:
    """Atomically. Raises OSError."""
    path = path_of(machine)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"device": d, "source": s, **asdict(i)} for (d, s), i in idle.items()]
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps({"idle": rows}, indent=1))
    aside.replace(path)
    return path
