"""Power and energy sensors: what they are, how good they are, what they say.

NVML (GPU): the instant and the averaged power are different fields and stay apart (on recent
data-centre parts the default reading is a trailing average of about a second); the energy counter is
preferred for joules. RAPL (CPU): the package's energy counter, where the system lets us read it.
A query that a device does not support is "not available", never an exception and never a guess.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from workbench.events import Event, Power, SensorStatus
from workbench.machine import Machine

#: Never faster than this by default; one poller for all sensors.
PERIOD_S = 0.1
RAPL = Path("/sys/class/powercap")
#: (NVML module, device) -> period of its energy counter, None while it was not seen to change.
_PERIODS: dict[tuple[int, int], float | None] = {}


class Sensor(Protocol):
    """One source of readings."""

    def status(self) -> SensorStatus: ...

    def read(self) -> Power: ...

    def close(self) -> None: ...


class Nvml:
    """One GPU through nvidia-ml-py. ``api``: the pynvml module (tests inject recorded behaviour)."""

    def __init__(self, index: int, api: Any) -> None:
        self._api, self._index = api, index
        self._handle = api.nvmlDeviceGetHandleByIndex(index)
        self._zero_mj: int | None = None

    def status(self) -> SensorStatus:
        first = self.read()
        have = [n for n in ("instant_w", "average_w", "energy_j") if getattr(first, n) is not None]
        return SensorStatus(
            device=f"gpu{self._index}", source="NVML", available=bool(have),
            period_s=self.period() if first.energy_j is not None else None,
            reason="fields: " + ", ".join(have) if have else "this GPU reports no power to NVML")

    def period(self) -> float | None:
        """Seconds between the counter's updates; looked for once per process and device."""
        key = (id(self._api), self._index)
        if _PERIODS.get(key) is None:
            _PERIODS[key] = self.infer_period()
        return _PERIODS[key]

    def infer_period(self, limit_s: float = 0.35) -> float | None:
        """Median gap between changes of the energy counter, or None when it does not change."""
        changes, last, end = [], self._energy_mj(), time.monotonic() + limit_s
        while time.monotonic() < end:
            now = self._energy_mj()
            if now != last:
                changes.append(time.monotonic())
                last = now
            time.sleep(0.002)
        gaps = sorted(b - a for a, b in itertools.pairwise(changes))
        return gaps[len(gaps) // 2] if gaps else None

    def read(self) -> Power:
        milliwatts = self._field("NVML_FI_DEV_POWER_INSTANT")
        average = self._field("NVML_FI_DEV_POWER_AVERAGE")
        if average is None and milliwatts is None:
            average = self._ask("nvmlDeviceGetPowerUsage")  # documented as averaged on most parts
        energy = self._energy_mj()
        if energy is not None and self._zero_mj is None:
            self._zero_mj = energy
        load = self._ask("nvmlDeviceGetUtilizationRates")
        clock = self._ask("nvmlDeviceGetClockInfo", getattr(self._api, "NVML_CLOCK_SM", 1))
        return Power(
            device=f"gpu{self._index}", source="NVML",
            instant_w=None if milliwatts is None else milliwatts / 1000,
            average_w=None if average is None else average / 1000,
            energy_j=None if energy is None else (energy - (self._zero_mj or 0)) / 1000,
            utilization=None if load is None else load.gpu / 100,
            clock_hz=None if clock is None else clock * 1e6,
            temperature_c=self._ask("nvmlDeviceGetTemperature", 0), throttled=self._throttled())

    def _energy_mj(self) -> int | None:
        return self._ask("nvmlDeviceGetTotalEnergyConsumption")

    def _field(self, name: str) -> float | None:
        """An NVML field value in mW; None where the driver or the device does not have it."""
        number = getattr(self._api, name, None)
        if number is None:
            return None
        try:
            value = self._api.nvmlDeviceGetFieldValues(self._handle, [number])[0]
            return None if value.nvmlReturn else float(value.value.uiVal)
        except Exception:
            return None

    def _ask(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._api, function)(self._handle, *arguments)
        except Exception:
            return None

    def _throttled(self) -> str:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        reasons = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "thermal (software)",
                   0x40: "thermal (hardware)", 0x80: "power brake"}
        return ", ".join(text for bit, text in reasons.items() if bits and bits & bit)

    def close(self) -> None:
        return None


class Rapl:
    """One CPU package's energy counter. Wraps at ``max_energy_range_uj``."""

    def __init__(self, zone: Path) -> None:
        self._zone = zone
        self._name = (zone / "name").read_text().strip()
        self._range_uj = int((zone / "max_energy_range_uj").read_text())
        self._last_uj, self._last_s = self._counter(), time.monotonic()
        self._sum_uj = 0

    def _counter(self) -> int:
        return int((self._zone / "energy_uj").read_text())

    def status(self) -> SensorStatus:
        # The counter is updated about every millisecond (Intel SDM vol. 3B, RAPL).
        return SensorStatus(device=f"cpu {self._name}", source="RAPL", available=True, period_s=0.001)

    def read(self) -> Power:
        now_uj, now_s = self._counter(), time.monotonic()
        step = (now_uj - self._last_uj) % self._range_uj
        watts = step * 1e-6 / (now_s - self._last_s) if now_s > self._last_s else None
        self._sum_uj += step
        self._last_uj, self._last_s = now_uj, now_s
        return Power(device=f"cpu {self._name}", source="RAPL", average_w=watts,
                     energy_j=self._sum_uj * 1e-6)

    def close(self) -> None:
        return None


class Absent:
    """What is not there, with the reason; reads as nothing."""

    def __init__(self, device: str, source: str, reason: str) -> None:
        self._status = SensorStatus(device=device, source=source, available=False, reason=reason)

    def status(self) -> SensorStatus:
        return self._status

    def read(self) -> Power:
        return Power(device=self._status.device, source=self._status.source)

    def close(self) -> None:
        return None


def sensors(machine: Machine, api: Any = None, rapl: Path = RAPL) -> list[Any]:
    """Every sensor of this machine; what is absent is there too, saying why."""
    return [*_gpus(machine, api), *_packages(rapl)]


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


def _packages(root: Path) -> list[Any]:
    zones = sorted(z for z in root.glob("intel-rapl:*") if z.name.count(":") == 1)
    if not zones:
        return [Absent("cpu", "RAPL", "this machine shows no RAPL counter (virtual machines and "
                       "non-Linux systems hide it), so CPU energy is not available")]
    found: list[Any] = []
    for zone in zones:
        try:
            found.append(Rapl(zone))
        except PermissionError:
            found.append(Absent("cpu", "RAPL", f"{zone}/energy_uj is not readable; an administrator "
                                "can allow it with chmod a+r"))
        except (OSError, ValueError) as error:
            found.append(Absent("cpu", "RAPL", f"the counter cannot be read ({error})"))
    return found


class PowerPoller:
    """One slow thread for all sensors; a run without any costs no thread."""

    def __init__(self, found: list[Any], emit: Callable[[Event], None], clock: Callable[[], float],
                 period_s: float = PERIOD_S) -> None:
        self._found, self._emit, self._clock = found, emit, clock
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: list[Any] = []

    def start(self) -> None:
        """Says at once what is absent. Live sensors are asked on the thread: finding a sensor's period
        takes a third of a second, which must not delay the run."""
        for sensor in self._found:
            if isinstance(sensor, Absent):
                self._say(sensor.status())
            else:
                self._live.append(sensor)
        if self._live:
            self._read()
            self._thread = threading.Thread(target=self._poll, name="power", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """One last reading, so that the energy counter covers the whole run."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2)
            self._read()
        for sensor in self._found:
            sensor.close()

    def _poll(self) -> None:
        for sensor in list(self._live):
            status = sensor.status()
            self._say(status)
            if not status.available:
                self._live = [s for s in self._live if s is not sensor]
        while not self._stop.wait(self._period_s):
            self._read()

    def _read(self) -> None:
        for sensor in self._live:
            try:
                reading = sensor.read()
                if (reading.instant_w, reading.average_w, reading.energy_j) != (None, None, None):
                    self._say(reading)
            except Exception:  # a sensor that goes away ends its series, not the run
                self._live = [s for s in self._live if s is not sensor]

    def _say(self, event: Any) -> None:
        import msgspec

        self._emit(msgspec.structs.replace(event, t_s=self._clock()))
