"""Who had the processors, and the estimate that is made of it when somebody asks."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.telemetry.fake_power import fake_rapl
from workbench.machine import Machine
from workbench.settings import Settings
from workbench.telemetry import power, power_idle, power_load
from workbench.telemetry.power import Absent, Rapl, for_settings
from workbench.telemetry.power_estimate import CpuEstimate, rated
from workbench.telemetry.power_load import Load

MACHINE = Machine("Test CPU", 2, 1 << 30)


class Stat:
    """/proc/stat and this process's times, moved by hand. 2 cores."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.now = tmp_path / "stat", 0.0
        self.busy = self.mine = 0.0
        self.write()
        monkeypatch.setattr(power_load.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(power_load.os, "times", lambda: SimpleNamespace(
            user=self.mine, system=0.0, children_user=0.0, children_system=0.0))

    def write(self) -> None:
        hz = os.sysconf("SC_CLK_TCK")
        idle = 2 * self.now - self.busy
        self.path.write_text(f"cpu  {round(self.busy * hz)} 0 0 {round(idle * hz)} 0 0 0 0 0 0\ncpu0 1\n")

    def pass_time(self, seconds: float, busy: float, mine: float) -> None:
        self.now += seconds
        self.busy += busy
        self.mine += mine
        self.write()


def test_others_share_of_the_work_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Stat(tmp_path, monkeypatch)
    load = Load(stat.path)
    stat.pass_time(0.1, 0.1, 0.1)
    load.update()
    assert load.busy is None, "a tenth of a second is ten ticks"
    stat.pass_time(0.9, 1.4, 0.65)  # now 1.5 of 2 core seconds busy, half of it ours
    load.update()
    assert load.busy == pytest.approx(0.75, abs=0.01)
    assert load.others == pytest.approx(0.5, abs=0.01)
    stat.pass_time(1.0, 0.02, 0.0)
    load.update()
    assert load.others is None, "nobody works: there is no share"


def test_a_system_without_proc_stat_tells_nothing(tmp_path: Path) -> None:
    load = Load(tmp_path / "none")
    load.update()
    assert (load.busy, load.others) == (None, None)


def test_the_estimate_is_only_made_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "RAPL", tmp_path)
    stat = Stat(tmp_path, monkeypatch)
    load = Load(stat.path)
    asked = Settings().with_({"telemetry.estimate_cpu_power": True, "telemetry.cpu_watts": 100})
    assert not any(isinstance(s, CpuEstimate) for s in for_settings(Settings(), MACHINE, load))
    (sensor,) = [s for s in for_settings(asked, MACHINE, load) if isinstance(s, CpuEstimate)]
    assert sensor.status().quality == "estimated"
    assert "100 W given by telemetry.cpu_watts" in sensor.status().reason
    assert sensor.read().average_w is None
    stat.pass_time(1.0, 2.0, 2.0)
    load.update()
    full = sensor.read()
    assert full.quality == "estimated"
    assert (full.low_w, full.average_w, full.high_w) == pytest.approx((60, 85, 110))
    stat.pass_time(1.0, 0.0, 0.0)
    load.update()
    assert sensor.read().average_w == pytest.approx(20, abs=1)


def test_where_a_counter_can_be_read_there_is_no_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                          ) -> None:
    fake_rapl(tmp_path)
    monkeypatch.setattr(power, "RAPL", tmp_path)
    asked = Settings().with_({"telemetry.estimate_cpu_power": True, "telemetry.cpu_watts": 100})
    assert [type(s) for s in for_settings(asked, MACHINE, Load())] == [Rapl]


def test_an_unknown_processor_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "RAPL", tmp_path)
    assert rated(MACHINE, 0) is None
    asked = Settings().with_({"telemetry.estimate_cpu_power": True})
    found = for_settings(asked, MACHINE, Load())
    assert all(isinstance(s, Absent) for s in found)
    assert "set telemetry.cpu_watts" in found[-1].status().reason


def test_a_known_processors_watts_are_shared_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.telemetry.power_estimate.os.cpu_count", lambda: 28)
    got = rated(Machine("Intel(R) Xeon(R) Platinum 8480C", 28, 1), 0)
    assert got is not None
    assert got.watts == pytest.approx(350 / 4)
    assert "112 threads" in got.basis


# -- RAPL's tree ------------------------------------------------------------------------------

def zone(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text("5\n")
    (folder / "max_energy_range_uj").write_text("1000000\n")


def test_nothing_is_counted_twice(tmp_path: Path) -> None:
    zone(tmp_path / "intel-rapl:0", "package-0")
    zone(tmp_path / "intel-rapl:0" / "intel-rapl:0:0", "core")
    zone(tmp_path / "intel-rapl:0" / "intel-rapl:0:1", "dram")
    zone(tmp_path / "intel-rapl:1", "psys")
    zone(tmp_path / "intel-rapl-mmio:0", "package-0")
    found = power.sensors(MACHINE, rapl=tmp_path)
    assert [s.status().device for s in found] == ["cpu package-0", "cpu package-0 dram"]


def test_a_refused_counter_is_one_sentence_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(2):
        zone(tmp_path / f"intel-rapl:{i}", f"package-{i}")

    def refuse(self: Rapl) -> int:
        raise PermissionError

    monkeypatch.setattr(Rapl, "_counter", refuse)
    (only,) = power.sensors(MACHINE, rapl=tmp_path)
    assert "chmod a+r" in only.status().reason


def test_a_counter_that_was_reset_adds_nothing(tmp_path: Path) -> None:
    folder = fake_rapl(tmp_path)
    (folder / "energy_uj").write_text("200000000000\n")
    sensor = Rapl(folder)
    time.sleep(0.03)
    (folder / "energy_uj").write_text("17\n")  # 62 kJ in 30 ms is not a wrap
    assert sensor.read().energy_j == 0


# -- idle power -------------------------------------------------------------------------------

def test_idle_power_is_measured_remembered_and_told(tmp_path: Path) -> None:
    """Half a joule every 10 ms by a thread of the test: 50 W."""
    import threading

    folder = fake_rapl(tmp_path)
    stop = threading.Event()

    def work() -> None:
        began = time.monotonic()
        while not stop.wait(0.005):
            uj = int(50e6 * (time.monotonic() - began))
            (folder / "new").write_text(str(uj))
            (folder / "new").replace(folder / "energy_uj")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        sensor = Rapl(folder)
        found = power_idle.measure([sensor], 1.6, "a test")
    finally:
        stop.set()
        thread.join()
    key = ("cpu package-0", "RAPL")
    assert found[key].watts == pytest.approx(50, rel=0.05)
    assert found[key].se_w < 2
    power_idle.save(MACHINE, found)
    assert power_idle.load(MACHINE) == found
    told = power_idle.told(sensor.status(), power_idle.load(MACHINE))
    assert told.idle_w == found[key].watts
    assert told.idle_basis == "a test"


def test_too_short_an_idle_gives_no_figure(tmp_path: Path) -> None:
    assert power_idle.measure([Rapl(fake_rapl(tmp_path))], 0.4, "x") == {}


def test_a_damaged_idle_file_is_as_none() -> None:
    path = power_idle.path_of(MACHINE)
    path.parent.mkdir(parents=True)
    path.write_text('{"idle": [{"device": 1}]}')
    assert power_idle.load(MACHINE) == {}
