"""A CPU package's energy counter (RAPL) through Linux's powercap files.

Zones: ``package-N`` is a socket; its ``dram`` subzone is memory that the package does not include;
``core`` and ``uncore`` are parts of the package and ``psys`` contains all of them, so neither is added.
The counter covers the whole socket, whoever works on it: see ``others``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from workbench.events import Power, SensorStatus
from workbench.telemetry.power_load import Load

#: The counter moves every millisecond; watts over less than this are mostly that step.
MIN_S = 0.02
#: A counter that went backwards by more than this many watts' worth was reset, it did not wrap.
_ABSURD_W = 20_000.0


class Rapl:
    """One zone's energy counter. Wraps at ``max_energy_range_uj``."""

    def __init__(self, zone: Path, load: Load | None = None) -> None:
        """Raises PermissionError, OSError, ValueError where the counter cannot be read."""
        self._zone, self._load = zone, load
        self._name = name_of(zone)
        self._range_uj = int((zone / "max_energy_range_uj").read_text())
        self._last_uj, self._last_s = self._counter(), time.monotonic()
        self._sum_uj = 0

    def _counter(self) -> int:
        return int((self._zone / "energy_uj").read_text())

    def status(self, beat: Callable[[], bool] | None = None) -> SensorStatus:
        # The counter is updated about every millisecond (Intel SDM vol. 3B, RAPL).
        return SensorStatus(device=f"cpu {self._name}", source="RAPL", available=True, period_s=0.001)

    def read(self) -> Power:
        now_uj, now_s = self._counter(), time.monotonic()
        elapsed = now_s - self._last_s
        step = (now_uj - self._last_uj) % self._range_uj
        if now_uj < self._last_uj and step * 1e-6 > _ABSURD_W * max(elapsed, 0.001):
            step = 0  # reset by suspend or a driver: the joules in between are unknown
        self._sum_uj += step
        self._last_uj, self._last_s = now_uj, now_s
        return Power(device=f"cpu {self._name}", source="RAPL",
                     average_w=step * 1e-6 / elapsed if elapsed >= MIN_S else None,
                     energy_j=self._sum_uj * 1e-6, throttled="",
                     utilization=self._load.busy if self._load else None,
                     others=self._load.others if self._load else None)

    def close(self) -> None:
        return None


def name_of(zone: Path) -> str:
    """``package-0``, or ``package-0 dram`` for a subzone."""
    name = (zone / "name").read_text().strip()
    parent = zone.parent / "name"
    return f"{parent.read_text().strip()} {name}" if zone.name.count(":") > 1 and parent.is_file() \
        else name


def zones(root: Path) -> list[Path]:
    """Zones whose joules add up without counting anything twice."""
    found = []
    for zone in sorted(z for z in root.glob("intel-rapl:*") if z.name.count(":") == 1):
        if _name(zone) == "psys":
            continue
        found.append(zone)
        found += [z for z in sorted(zone.glob("intel-rapl:*:*")) if _name(z) == "dram"]
    return found


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text().strip()
    except OSError:
        return ""
