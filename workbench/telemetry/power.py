"""Power and energy sensors of this machine, and the one slow thread that reads them all.

A sensor is ``power_nvml`` (a GPU), ``power_rapl`` (a CPU package or its memory), ``power_estimate`` (a
labelled model of a CPU, only when asked for) or :class:`Absent`, which says why there is none. A query
that a device does not support is "not available", never an exception and never a guess.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from workbench.events import Event, Power, SensorStatus
from workbench.machine import Machine
from workbench.telemetry import power_idle
from workbench.telemetry.power_estimate import CpuEstimate, rated
from workbench.telemetry.power_load import Load
from workbench.telemetry.power_nvml import Nvml
from workbench.telemetry.power_rapl import Rapl, zones

__all__ = ["Absent", "Nvml", "PowerPoller", "Rapl", "Sensor", "for_settings", "sensors"]

#: Never faster than this by default; one poller for all sensors.
PERIOD_S = 0.1
RAPL = Path("/sys/class/powercap")


class Sensor(Protocol):
    """One source of readings."""

    def status(self, beat: Callable[[], bool] | None = None) -> SensorStatus: ...

    def read(self) -> Power: ...

    def close(self) -> None: ...


class Absent:
    """What is not there, with the reason; reads as nothing."""

    def __init__(self, device: str, source: str, reason: str) -> None:
        self._status = SensorStatus(device=device, source=source, available=False, reason=reason)

    def status(self, beat: Callable[[], bool] | None = None) -> SensorStatus:
        return self._status

    def read(self) -> Power:
        return Power(device=self._status.device, source=self._status.source)

    def close(self) -> None:
        return None


def sensors(machine: Machine, api: Any = None, rapl: Path | None = None, load: Load | None = None
            ) -> list[Any]:
    """Every sensor of this machine; what is absent is there too, saying why."""
    return [*_gpus(machine, api), *_packages(rapl or RAPL, load)]


def for_settings(settings: Any, machine: Machine, load: Load | None = None) -> list[Any]:
    """The sensors of a run: measured ones, and the CPU model where the user asked for one and no
    counter can be read."""
    found = sensors(machine, load=load)
    asked = settings.telemetry
    measured = any(isinstance(s, Rapl) for s in found)
    if asked.estimate_cpu_power and not measured and load is not None:
        power = rated(machine, asked.cpu_watts)
        found.append(CpuEstimate(power, load) if power else Absent(
            "cpu", "model", f"the rated power of {machine.cpu or 'this processor'} is not in the "
            "catalogue; set telemetry.cpu_watts to the watts of the cores that this machine has"))
    return found


def _gpus(machine: Machine, api: Any) -> list[Any]:
    if not machine.gpus and api is None:
        return []
    try:
        if api is None:
            import pynvml

            api = pynvml
        api.nvmlInit()
        return [Nvml(i, api) for i in range(api.nvmlDeviceGetCount())]
    except Exception as error:
        return [Absent("gpu", "NVML", f"NVML does not answer ({error})")]


def _packages(root: Path, load: Load | None = None) -> list[Any]:
    there = zones(root)
    if not there:
        return [Absent("cpu", "RAPL", "this machine shows no RAPL counter (virtual machines and "
                       "non-Linux systems hide it), so CPU energy is not available")]
    found: list[Any] = []
    refused = 0
    for zone in there:
        try:
            found.append(Rapl(zone, load))
        except PermissionError:
            refused += 1
        except (OSError, ValueError) as error:
            found.append(Absent("cpu", "RAPL", f"the counter {zone} cannot be read ({error})"))
    if refused:
        found.append(Absent("cpu", "RAPL", f"{root}/intel-rapl:*/energy_uj is there and not readable; "
                            "an administrator can allow it with chmod a+r (until the next start)"))
    return found


class PowerPoller:
    """One slow thread for all sensors; a run without any costs no thread.

    ``idle``: (device, source) -> idle power that was measured for it, said with its status."""

    def __init__(self, found: list[Any], emit: Callable[[Event], None], clock: Callable[[], float],
                 period_s: float = PERIOD_S, load: Load | None = None,
                 idle: dict[tuple[str, str], power_idle.Idle] | None = None) -> None:
        self._found, self._emit, self._clock = found, emit, clock
        self._period_s, self._load = period_s, load
        self._idle = idle or {}
        self._stop = threading.Event()
        self._now = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: list[Any] = []
        self._due = 0.0

    def start(self) -> None:
        """Says at once what is absent. Live sensors are asked on the thread: finding a sensor's period
        takes half a second, which must not delay the run."""
        for sensor in self._found:
            if isinstance(sensor, Absent):
                self._say(sensor.status())
            else:
                self._live.append(sensor)
        if self._live:
            self._read()
            self._thread = threading.Thread(target=self._poll, name="power", daemon=True)
            self._thread.start()

    def nudge(self) -> None:
        """Read once more now (a phase ends here): returns at once, the poller's thread reads."""
        self._now.set()

    def stop(self) -> None:
        """One last reading, so that the energy counter covers the whole run."""
        self._stop.set()
        self._now.set()
        if self._thread is not None:
            self._thread.join(2)
            self._read()
        for sensor in self._found:
            sensor.close()

    def _poll(self) -> None:
        for sensor in list(self._live):
            try:
                status = sensor.status(self._beat)
            except Exception:
                self._live = [s for s in self._live if s is not sensor]
                continue
            self._say(power_idle.told(status, self._idle))
            if not status.available:
                self._live = [s for s in self._live if s is not sensor]
        while not self._stop.is_set():
            self._now.wait(max(0.0, self._due - time.monotonic()))
            self._now.clear()
            if not self._stop.is_set():
                self._read()

    def _beat(self) -> bool:
        """Called while a sensor is watched: readings go on meanwhile. False: stop watching."""
        if time.monotonic() >= self._due and not self._stop.is_set():
            self._read()
        return not self._stop.is_set()

    def _read(self) -> None:
        self._due = time.monotonic() + self._period_s
        if self._load is not None:
            self._load.update()
        for sensor in list(self._live):
            try:
                began = self._clock()
                reading = sensor.read()
                if (reading.instant_w, reading.average_w, reading.energy_j) != (None, None, None):
                    ended = self._clock()
                    self._say(reading, (began + ended) / 2, ended - began)
            except Exception:  # a sensor that goes away ends its series, not the run
                self._live = [s for s in self._live if s is not sensor]

    def _say(self, event: Any, at_s: float | None = None, took_s: float | None = None) -> None:
        import msgspec

        stamp = {"t_s": self._clock() if at_s is None else at_s}
        if took_s is not None:
            stamp["took_s"] = took_s
        self._emit(msgspec.structs.replace(event, **stamp))
