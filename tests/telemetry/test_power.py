"""Sensors against recorded behaviour: NVML's fields and refusals, RAPL's counter files."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workbench.events import Event, Power, SensorStatus
from workbench.machine import Machine
from workbench.telemetry.power import Absent, Nvml, PowerPoller, Rapl, sensors

NO_GPU = Machine("a cpu", 2, 1 << 30)


class NotSupported(Exception):
    """What pynvml raises for a query that a device does not have."""


class Api:
    """pynvml as an H100 answers; ``without`` names what this device refuses."""

    NVML_FI_DEV_POWER_INSTANT, NVML_FI_DEV_POWER_AVERAGE, NVML_CLOCK_SM = 186, 185, 1

    def __init__(self, without: tuple[str, ...] = ()) -> None:
        self.without, self.began = without, time.monotonic()

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvmlDevice") and name in object.__getattribute__(self, "without"):
            raise NotSupported(name)
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return "handle"

    def nvmlDeviceGetFieldValues(self, handle: str, numbers: list[int]) -> list[Any]:
        milliwatts = {186: 412_000, 185: 398_000}[numbers[0]]
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=milliwatts))]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        """400 W, updated every 20 ms, in mJ."""
        ticks = int((time.monotonic() - self.began) / 0.020)
        return 1_000_000 + ticks * 8_000

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 398_000

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return SimpleNamespace(gpu=87)

    def nvmlDeviceGetClockInfo(self, handle: str, clock: int) -> int:
        return 1980

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 55

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return 0x4


def test_instant_and_average_power_stay_apart_in_si_units() -> None:
    reading = Nvml(0, Api()).read()
    assert (reading.instant_w, reading.average_w) == (412.0, 398.0)
    assert reading.clock_hz == 1.98e9
    assert reading.utilization == 0.87
    assert reading.throttled == "power cap"
    assert reading.quality == "measured"


def test_energy_counts_from_the_first_reading() -> None:
    sensor = Nvml(0, Api())
    assert sensor.read().energy_j == 0.0
    time.sleep(0.1)
    assert 24 <= sensor.read().energy_j <= 80  # 400 W for 0.1 s is 40 J


def test_the_sensor_period_is_inferred_from_its_counter() -> None:
    period = Nvml(0, Api()).status().period_s
    assert period is not None
    assert 0.01 < period < 0.06


@pytest.mark.parametrize(("without", "missing"), [
    (("nvmlDeviceGetTotalEnergyConsumption",), "energy_j"),
    (("nvmlDeviceGetUtilizationRates",), "utilization"),
    (("nvmlDeviceGetClockInfo",), "clock_hz"),
    (("nvmlDeviceGetTemperature",), "temperature_c")])
def test_an_unsupported_query_is_none_not_an_exception(without: tuple[str, ...], missing: str
                                                       ) -> None:
    reading = Nvml(0, Api(without)).read()
    assert getattr(reading, missing) is None
    assert reading.average_w == 398.0


def test_an_old_device_without_fields_uses_the_averaged_reading() -> None:
    reading = Nvml(0, Api(("nvmlDeviceGetFieldValues",))).read()
    assert reading.instant_w is None
    assert reading.average_w == 398.0


def test_a_device_that_reports_nothing_says_so() -> None:
    everything = tuple(n for n in dir(Api) if n.startswith("nvmlDeviceGet")
                       and n not in ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"))
    status = Nvml(0, Api(everything)).status()
    assert not status.available
    assert "no power" in status.reason


def zone(root: Path, energy: int = 1000, limit: int = 10_000) -> Path:
    folder = root / "intel-rapl:0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("package-0\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    return folder


def test_rapl_counts_joules_across_its_wrap(tmp_path: Path) -> None:
    folder = zone(tmp_path, energy=9_000)
    sensor = Rapl(folder)
    assert sensor.read().average_w is None, "watts over microseconds are noise"
    time.sleep(0.03)
    (folder / "energy_uj").write_text("500\n")  # wrapped at 10000: 1500 uJ later
    reading = sensor.read()
    assert reading.energy_j == pytest.approx(1.5e-3)
    assert reading.average_w is not None
    assert reading.average_w > 0


def test_what_is_absent_says_why(tmp_path: Path) -> None:
    (only,) = sensors(NO_GPU, rapl=tmp_path)
    assert isinstance(only, Absent)
    assert "no RAPL counter" in only.status().reason
    assert only.read().energy_j is None


def test_nvml_that_does_not_answer_is_a_reason(tmp_path: Path) -> None:
    class Broken:
        def nvmlInit(self) -> None:
            raise RuntimeError("driver not loaded")

    found = sensors(NO_GPU, api=Broken(), rapl=tmp_path)
    assert "driver not loaded" in found[0].status().reason


def test_one_poller_reads_all_and_covers_the_whole_run(tmp_path: Path) -> None:
    folder = zone(tmp_path)
    events: list[Event] = []
    poller = PowerPoller([Nvml(0, Api()), Rapl(folder), Absent("x", "y", "z")], events.append,
                         time.monotonic, period_s=0.02)
    poller.start()
    time.sleep(0.1)
    (folder / "energy_uj").write_text("1700\n")
    poller.stop()
    assert {e.source: e.available for e in events if isinstance(e, SensorStatus)} == {
        "NVML": True, "RAPL": True, "y": False}
    last = [e for e in events if isinstance(e, Power) and e.source == "RAPL"][-1]
    assert last.energy_j == pytest.approx(7e-4)
    assert len([e for e in events if isinstance(e, Power) and e.source == "NVML"]) >= 2


def test_finding_the_period_does_not_delay_the_run_and_happens_once() -> None:
    api = Api()
    for longest in (0.1, 0.1):
        poller = PowerPoller([Nvml(0, api)], lambda event: None, time.monotonic)
        began = time.monotonic()
        poller.start()
        assert time.monotonic() - began < longest
        time.sleep(0.6)
        poller.stop()
    began = time.monotonic()
    assert Nvml(0, api).status().period_s is not None
    assert time.monotonic() - began < 0.1, "known from the first time"


def test_readings_without_a_value_are_no_readings() -> None:
    everything = tuple(n for n in dir(Api) if n.startswith("nvmlDeviceGet")
                       and n not in ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"))
    events: list[Event] = []
    poller = PowerPoller([Nvml(0, Api(everything))], events.append, time.monotonic, period_s=0.01)
    poller.start()
    time.sleep(0.05)
    poller.stop()
    assert not [e for e in events if isinstance(e, Power)]
    assert [e.available for e in events if isinstance(e, SensorStatus)] == [False]


def test_a_sensor_that_goes_away_ends_its_series_not_the_run(tmp_path: Path) -> None:
    folder = zone(tmp_path)
    events: list[Event] = []
    poller = PowerPoller([Rapl(folder)], events.append, time.monotonic, period_s=0.01)
    poller.start()
    time.sleep(0.03)
    (folder / "energy_uj").unlink()
    time.sleep(0.05)
    poller.stop()
    assert [e for e in events if isinstance(e, Power)]


def test_a_nudge_reads_at_once_and_readings_say_how_long_they_took(tmp_path: Path) -> None:
    """The end of the prompt asks for one more reading, from another thread and without waiting for it."""
    folder = zone(tmp_path)
    events: list[Event] = []
    zero = time.monotonic()
    poller = PowerPoller([Rapl(folder)], events.append, lambda: time.monotonic() - zero, period_s=5.0)
    poller.start()
    time.sleep(0.2)
    asked = time.monotonic() - zero
    poller.nudge()
    assert time.monotonic() - zero - asked < 0.01
    time.sleep(0.2)
    poller.stop()
    readings = [e for e in events if isinstance(e, Power)]
    assert len(readings) == 3, "first, nudged, last"
    assert readings[1].t_s == pytest.approx(asked, abs=0.05)
    assert all(e.took_s is not None and 0 <= e.took_s < 0.05 for e in readings)


def test_the_periods_of_power_fields_are_found_by_their_changes() -> None:
    class Moving(Api):
        def nvmlDeviceGetFieldValues(self, handle: str, numbers: list[int]) -> list[Any]:
            period = {186: 0.05, 185: 0.1}[numbers[0]]
            tick = int((time.monotonic() - self.began) / period)
            return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=400_000 + 1000 * (tick % 7)))]

    status = Nvml(0, Moving()).status()
    assert status.instant_period_s == pytest.approx(0.05, rel=0.4)
    assert status.average_period_s == pytest.approx(0.1, rel=0.4)


@pytest.mark.parametrize(("samples", "expected"), [
    ([], None), ([(1, 50)], 0.0), ([("me", 30), (1, 10)], 0.25), ([(1, 50), (2, 50)], None)])
def test_a_neighbours_share_of_the_gpu_is_told_where_nvml_tells(
        samples: list[tuple[Any, int]], expected: float | None) -> None:
    import os

    class Shared(Api):
        def nvmlDeviceGetProcessUtilization(self, handle: str, since: int) -> list[Any]:
            return [SimpleNamespace(pid=os.getpid() if p == "me" else 10_000_000 + p, smUtil=u, timeStamp=7)
                    for p, u in samples]

    others = Nvml(0, Shared()).read().others
    assert others == (None if expected is None else pytest.approx(expected))


def test_status_outside_a_run_judges_the_same_way(tmp_path: Path) -> None:
    from workbench.energy.status import look

    found = look(0.6, NO_GPU, [Nvml(0, Api()), Absent("cpu", "RAPL", "none here")])
    by = {s.device: s for s in found}
    assert by["gpu0"].available
    assert by["gpu0"].period_s is not None
    assert not by["cpu"].available
    assert "none here" in by["cpu"].words[0]
