"""A neighbour's load: seen in a made-up /proc to the digit, and from a real busy process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.analysis import interference as of
from workbench.events import Event, Interference, Phase
from workbench.telemetry.neighbours import Counters, Neighbours, between, read

LINUX = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's schedstat")


def counters(own: float, busy: float, total: float, threads: dict[int, tuple[float, float]] | None,
             steal: float = 0.0, pressure: float | None = 0.0, switches: int = 0) -> Counters:
    return Counters(own, busy, total, steal, pressure, threads, switches)


def test_shares_are_those_of_the_counters() -> None:
    a = counters(1.0, 10.0, 100.0, {1: (1.0, 0.0)})
    b = counters(1.5, 11.0, 102.0, {1: (1.5, 0.25)}, steal=0.1, pressure=0.4, switches=30)
    e = between(a, b, 3.0, 4.0)
    assert e.others == pytest.approx(0.25)  # 1.0 busy less 0.5 own, of 2 core-seconds
    assert e.steal == pytest.approx(0.05)
    assert e.waited == pytest.approx(0.25)
    assert e.pressure == pytest.approx(0.4)
    assert e.involuntary_per_s == pytest.approx(30)
    assert e.slowdown == pytest.approx(1 / (0.75 * 0.95))


def test_waiting_for_our_own_threads_is_no_neighbours_doing() -> None:
    a = counters(0.0, 0.0, 0.0, {1: (0.0, 0.0), 2: (0.0, 0.0), 3: (0.0, 0.0)})
    b = counters(2.0, 2.02, 2.0, {1: (0.7, 0.4), 2: (0.6, 0.5), 3: (0.7, 0.5)})
    e = between(a, b, 0.0, 1.0)
    assert e.others == pytest.approx(0.01)
    assert e.slowdown < 1.05


def test_the_pace_is_set_by_the_thread_that_waited_longest_of_those_that_work() -> None:
    a = counters(0.0, 0.0, 0.0, {1: (0.0, 0.0), 2: (0.0, 0.0), 9: (0.0, 0.0)})
    b = counters(1.0, 2.0, 2.0, {1: (0.5, 0.0), 2: (0.5, 0.5), 9: (0.02, 5.0)})
    assert between(a, b, 0.0, 1.0).waited == pytest.approx(0.5)


def test_what_a_system_does_not_show_is_none() -> None:
    e = between(Counters(0.0), Counters(1.0), 0.0, 1.0)
    assert (e.others, e.steal, e.waited, e.pressure, e.slowdown) == (None,) * 5


def test_a_tree_without_these_files_is_read_as_nothing(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert (found.busy_s, found.steal_s, found.pressure_s, found.threads) == (None,) * 4
    (tmp_path / "stat").write_text("garbage\n")
    assert read(tmp_path).busy_s is None
    emitted: list[Event] = []
    watch = Neighbours(emitted.append, time.perf_counter, 0.01, tmp_path / "absent")
    watch.start()
    watch.stop()
    assert emitted == []


def test_a_made_up_proc_is_read_in_ticks(tmp_path: Path) -> None:
    tick = 1 / os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text("cpu  100 20 30 1000 50 1 2 7 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "cpu").write_text(
        "some avg10=1 avg60=1 avg300=1 total=2500000\nfull x total=0\n")
    task = tmp_path / "self" / "task" / "42"
    task.mkdir(parents=True)
    (task / "schedstat").write_text("3000000000 500000000 77\n")
    found = read(tmp_path)
    assert found.busy_s == pytest.approx(153 * tick)
    assert found.all_s == pytest.approx(1210 * tick)
    assert found.steal_s == pytest.approx(7 * tick)
    assert found.pressure_s == pytest.approx(2.5)
    assert found.threads == {42: (3.0, 0.5)}


def windows(slowdowns: list[float | None], others: float = 0.5) -> list[Interference]:
    return [Interference(start_s=i * 0.25, end_s=(i + 1) * 0.25, others=others,
                         waited=None if s is None else 1 - 1 / s, slowdown=s)
            for i, s in enumerate(slowdowns)]


def test_the_badge_is_for_runs_that_were_disturbed() -> None:
    calm = of.disturbance(windows([1.0, 1.01, 1.02], others=0.02))
    assert (calm.badge, calm.reason) == ("", "")
    assert calm.slowdown == pytest.approx(1.01, abs=1e-3)
    rough = of.disturbance(windows([1.0, 2.0]))
    assert rough.slowdown == pytest.approx(0.5 / (0.25 + 0.125))  # 0.375 s of work took 0.5 s
    assert "disturbed" in rough.badge
    assert "estimated" in rough.badge
    assert rough.disturbed_s == pytest.approx(0.25)
    assert any("50 % of this machine's CPU" in e for e in rough.evidence)


def test_a_run_without_windows_says_why() -> None:
    assert "not watched" in of.disturbance([]).reason
    short = of.disturbance(windows([None]))
    assert short.slowdown is None
    assert "too short" in short.reason


def test_spread_of_steps_is_a_suspicion_only_beside_neighbours() -> None:
    steps = [Phase(phase="decode", start_s=i, end_s=i + (0.1 if i % 2 else 0.2)) for i in range(20)]
    assert "memory bandwidth" in of.disturbance([*steps, *windows([1.0], others=0.5)]).suspicion
    assert of.disturbance([*steps, *windows([1.0], others=0.01)]).suspicion == ""
    even = [Phase(phase="decode", start_s=i, end_s=i + 0.1) for i in range(20)]
    assert of.disturbance([*even, *windows([1.0])]).suspicion == ""


def work_watched(neighbours: int, seconds: float = 1.2) -> of.Disturbance:
    """This process works on one core while ``neighbours`` others work on the same one."""
    busy = "while True: pass"
    allowed = os.sched_getaffinity(0)
    core = max(allowed)
    events: list[Event] = []
    zero = time.perf_counter()
    watch = Neighbours(events.append, lambda: time.perf_counter() - zero, 0.2)
    os.sched_setaffinity(0, {core})
    started = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(neighbours)]
    try:
        time.sleep(0.3 if neighbours else 0.0)  # their interpreters start
        watch.start()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            sum(range(1000))
        watch.stop()
    finally:
        os.sched_setaffinity(0, allowed)
        for p in started:
            p.kill()
            p.wait()
    return of.disturbance(events)


@LINUX
def test_real_neighbours_on_our_core_are_seen() -> None:
    """Sharing one core with two others, a thread gets about a third of it. That a quiet run carries no
    badge needs a quiet machine, so the benchmark shows that."""
    two = work_watched(2)
    assert two.badge
    assert two.slowdown > 1.6
    assert any("other processes" in e for e in two.evidence)


@LINUX
def test_the_sampler_costs_little() -> None:
    read()
    began = time.process_time()
    for _ in range(100):
        read()
    assert (time.process_time() - began) / 100 < 0.002  # four a second: under one per cent
