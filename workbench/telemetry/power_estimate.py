"""CPU power as an estimate from rated watts and load, for machines whose counter cannot be read.

Used only when ``telemetry.estimate_cpu_power`` asks for it, always labelled estimated, never added to
measured joules. The model is linear in load (Fan, Weber and Barroso, ISCA 2007, section 3: within a few
per cent for a server once idle and full power are known). Neither is known here, so each comes as a
range of shares of the rated power: idle 10-40 %, full load 60-110 % (a processor with wide vector units
holds its limit; a memory-bound one does not reach it). On a virtual machine the rated power is that of
the hardware threads it was given.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from workbench.events import Power, SensorStatus
from workbench.machine import Machine
from workbench.telemetry.power_load import Load

#: Share of rated power without work and at full load: (low, middle, high).
IDLE, FULL = (0.10, 0.20, 0.40), (0.60, 0.85, 1.10)
#: Fragment of the processor's name -> (rated W of a socket, hardware threads of a socket), from the
#: vendors' product pages. A cloud's name for a processor is not there; telemetry.cpu_watts says it.
CATALOGUE: dict[str, tuple[float, int]] = {
    "Platinum 8480": (350, 112), "Platinum 8380": (270, 80), "Platinum 8280": (205, 56),
    "EPYC 9654": (360, 192), "EPYC 7763": (280, 128), "EPYC 7742": (225, 128),
    "i9-13900K": (253, 32), "i7-12700K": (190, 20), "Ryzen 9 7950X": (170, 32),
    "Ryzen 9 5950X": (105, 32)}


@dataclass(frozen=True)
class Rated:
    """``watts`` of the hardware threads that this machine has, and where that comes from."""

    watts: float
    basis: str


def rated(machine: Machine, given_w: float) -> Rated | None:
    """The user's figure, or the catalogue's share for the threads this machine sees; None: unknown."""
    if given_w > 0:
        return Rated(given_w, f"{given_w:g} W given by telemetry.cpu_watts")
    for fragment, (watts, threads) in CATALOGUE.items():
        if fragment.lower() in machine.cpu.lower():
            seen = os.cpu_count() or machine.cores
            sockets = max(1.0, seen / threads)
            share = watts * (seen / threads if seen < threads else sockets)
            return Rated(share, f"{watts:g} W per {threads} threads of {fragment}, {seen} threads here")
    return None


class CpuEstimate:
    """A stand-in for a counter: reads load, gives watts with their range, and says estimated."""

    def __init__(self, power: Rated, load: Load) -> None:
        self._power, self._load = power, load

    def status(self, beat: Callable[[], bool] | None = None) -> SensorStatus:
        return SensorStatus(device="cpu", source="model", available=True, quality="estimated",
                            reason=f"estimated from load and rated power ({self._power.basis})")

    def read(self) -> Power:
        """Nothing until the load has been seen for half a second."""
        busy = self._load.busy
        if busy is None:
            return Power(device="cpu", source="model", quality="estimated")
        low, middle, high = (self._power.watts * (i + (f - i) * busy)
                             for i, f in zip(IDLE, FULL, strict=True))
        return Power(device="cpu", source="model", quality="estimated", average_w=middle, low_w=low,
                     high_w=high, utilization=busy, others=self._load.others)

    def close(self) -> None:
        return None
