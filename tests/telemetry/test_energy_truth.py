"""J/token by phase against a known truth, through the real sensor code: right within its error bar.

The error bar must hold (the truth lies within two of it in nearly all of many runs) and must not be
bought with width (it is a few per cent where the sensor is good)."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.telemetry.fake_power import FakeNvml, Truth, fake_rapl, run_events
from workbench import events as ev
from workbench.analysis.energy import energy
from workbench.analysis.energy_phases import phases
from workbench.analysis.energy_sensors import sensors as quality
from workbench.analysis.metrics import summarize
from workbench.telemetry.power import Nvml, Rapl

RUNS = {"nvml": 100, "rapl": 15}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def readings(sensor: Any, clock: Clock, until_s: float, every_s: float, move: Callable[[], None],
             rng: random.Random, extra: tuple[float, ...] = ()) -> list[ev.Event]:
    """What a poller would have recorded: a reading now and then, each taking up to 4 ms."""
    found: list[ev.Event] = []
    t = 0.0
    times = []
    while t < until_s:
        times.append(t)
        t += every_s * rng.uniform(0.95, 1.15)
    for t in sorted([*times, *extra, until_s]):
        took = rng.uniform(0.0005, 0.004)
        clock.now = t + took * rng.random()
        move()
        found.append(msgspec.structs.replace(sensor.read(), t_s=t + took / 2, took_s=took))
    return found


def jagged(rng: random.Random, spans: list[tuple[str, float, float]], watts: dict[str, float],
           idle_w: float, ripple: float = 0.05) -> Truth:
    """Each phase at its own power with ripple every few ms, idle before and after."""
    steps = [(-5.0, idle_w)]
    for phase, a, b in spans:
        t = a
        while t < b:
            steps.append((t, watts[phase] * rng.uniform(1 - ripple, 1 + ripple)))
            t += rng.uniform(0.003, 0.012)
    return Truth([*steps, (spans[-1][2], idle_w)])


def one_run(seed: int, sensor: str, spans: list[tuple[str, float, float]], tmp_path: Path,
            monkeypatch: pytest.MonkeyPatch) -> tuple[list[ev.Event], Truth]:
    rng = random.Random(seed)
    clock = Clock()
    watts = {"prefill": rng.uniform(400, 700), "decode": rng.uniform(200, 350),
             "draft": rng.uniform(150, 200), "verify": rng.uniform(400, 600)}
    truth = jagged(rng, spans, watts, idle_w=80)
    end = spans[-1][2]
    nudge = tuple(b for p, _, b in spans if p == "prefill")
    if sensor == "nvml":
        period = rng.choice([0.02, 0.05, 0.1])
        fake = FakeNvml(truth, clock, counter_s=period, offset_s=rng.uniform(0, period))
        real: Any = Nvml(0, fake)
        status = ev.SensorStatus(device="gpu0", source="NVML", available=True, period_s=period,
                                 instant_period_s=0.1, average_period_s=0.1, idle_w=80.0, idle_se_w=0.5)
        found = readings(real, clock, end, 0.1, lambda: None, rng, nudge)
    else:
        limit = 700_000_000  # 700 J: wraps during the run
        folder = fake_rapl(tmp_path / str(seed), limit_uj=limit)
        start = rng.randrange(limit)

        def move() -> None:
            (folder / "energy_uj").write_text(str((start + int(1e6 * truth.total(
                int(clock.now / 0.001) * 0.001))) % limit))

        monkeypatch.setattr("workbench.telemetry.power_rapl.time.monotonic", clock)
        move()
        real = Rapl(folder)
        status = ev.SensorStatus(device="cpu package-0", source="RAPL", available=True, period_s=0.001,
                                 idle_w=80.0, idle_se_w=0.5)
        found = readings(real, clock, end, 0.1, move, rng, nudge)
    return [status, *run_events(spans, 1000, 200), *found], truth


PLAIN = [("prefill", 0.0, 1.3), ("decode", 1.3, 7.0)]


@pytest.mark.parametrize("sensor", ["nvml", "rapl"])
def test_joules_by_phase_are_right_within_their_error_bars(
        sensor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    within: list[float] = []
    widths: list[float] = []
    for seed in range(RUNS[sensor]):
        events, truth = one_run(seed, sensor, PLAIN, tmp_path, monkeypatch)
        monkeypatch.undo()
        found = {p.phase: p for p in phases(events)}
        for phase, a, b in PLAIN:
            got, true = found[phase], truth.joules(a, b)
            assert got.joules is not None
            assert got.how == "read from the sensor"
            within.append(abs(got.joules - true) / got.se)
            widths.append(got.se / true)
    assert sum(w <= 2 for w in within) >= 0.93 * len(within), sorted(within)[-12:]
    assert sorted(widths)[len(widths) // 2] < 0.02, "an error bar that is always right by being wide"
    assert max(widths) < 0.12


@pytest.mark.parametrize("field", ["instant", "average"])
def test_without_a_counter_the_error_bar_holds_too(field: str) -> None:
    """Power fields only, as on older parts: integrated, the average's smearing taken back."""
    within: list[float] = []
    widths: list[float] = []
    for seed in range(60):
        events, truth = without_counter(seed, field, PLAIN)
        for p, (_, a, b) in zip(phases(events), PLAIN, strict=True):
            assert p.joules is not None
            within.append(abs(p.joules - truth.joules(a, b)) / p.se)
            widths.append(p.se / truth.joules(a, b))
    assert sum(w <= 2 for w in within) >= 0.93 * len(within)
    assert sorted(widths)[len(widths) // 2] < 0.08


def test_a_prompt_shorter_than_what_the_sensor_averages_has_no_figure() -> None:
    events, truth = without_counter(0, "average", [("prefill", 0.0, 0.3), ("decode", 0.3, 20.0)])
    prompt, rest = phases(events)
    assert prompt.joules is None
    assert "shorter than what the sensor averages over (1 s)" in prompt.reason
    assert abs(rest.joules - truth.joules(0.3, 20)) <= 2 * rest.se + 0.02 * rest.joules


def without_counter(seed: int, field: str, spans: list[tuple[str, float, float]]
                    ) -> tuple[list[ev.Event], Truth]:
    rng, clock = random.Random(seed), Clock()
    truth = jagged(rng, spans, {"prefill": rng.uniform(400, 700), "decode": rng.uniform(200, 350)}, 80)
    fake: Any = FakeNvml(truth, clock, offset_s=rng.uniform(0, 0.1))
    fake.nvmlDeviceGetTotalEnergyConsumption = None  # a call to it fails
    if field == "average":
        fake.NVML_FI_DEV_POWER_INSTANT = None
    status = ev.SensorStatus(device="gpu0", source="NVML", available=True, average_period_s=0.1,
                             instant_period_s=0.1 if field == "instant" else None)
    nudge = tuple(b for p, _, b in spans if p == "prefill")
    found = readings(Nvml(0, fake), clock, spans[-1][2], 0.1, lambda: None, rng, nudge)
    assert all(e.energy_j is None for e in found)
    return [status, *run_events(spans, 1000, 200), *found], truth


def test_phases_that_take_turns_are_divided_or_the_division_is_refused(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts of 5-25 ms between verifications of 20-60 ms, a counter that moves every 20-100 ms."""
    divided = within = 0
    for seed in range(30):
        rng = random.Random(seed)
        spans, t = [("prefill", 0.0, 1.0)], 1.0
        while t < 9:
            for phase, low, high in (("draft", 0.005, 0.025), ("verify", 0.020, 0.060)):
                spans.append((phase, t, t := t + rng.uniform(low, high)))
        events, truth = one_run(seed, "nvml", spans, tmp_path, monkeypatch)
        for p in phases(events):
            if p.phase == "prefill":
                continue
            true = sum(truth.joules(a, b) for q, a, b in spans if q == p.phase)
            if p.joules is None:
                assert "too slow to tell" in p.reason
            else:
                divided += 1
                within += abs(p.joules - true) <= 2 * (p.se or 0)
    assert divided >= 30, "it always refuses"
    assert within >= 0.88 * divided


def test_energy_above_idle_keeps_both_figures_and_carries_the_baselines_error(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events, truth = one_run(3, "nvml", PLAIN, tmp_path, monkeypatch)
    got = energy(events, 0.0, 7.0)
    assert got.joules is not None
    assert got.net_j == pytest.approx(got.joules - 80 * 7)
    assert got.net_se == pytest.approx((got.se ** 2 + (0.5 * 7) ** 2) ** 0.5)
    metrics = summarize(events)
    assert metrics["j_per_token"].value == pytest.approx(truth.joules(0, 7) / 200, rel=0.02)
    assert metrics["j_per_token_net"].value < metrics["j_per_token"].value
    assert metrics["prefill_j_per_token"].value == pytest.approx(truth.joules(0, 1.3) / 1000, rel=0.05)
    assert metrics["decode_j_per_token"].value == pytest.approx(truth.joules(1.3, 7) / 199, rel=0.05)
    unknown = [msgspec.structs.replace(e, idle_w=None) if isinstance(e, ev.SensorStatus) else e
               for e in events]
    assert energy(unknown, 0.0, 7.0).net_j is None
    assert "workbench power idle" in energy(unknown, 0.0, 7.0).net_reason


def test_a_calibration_error_of_the_power_field_is_shown_not_averaged_away() -> None:
    clock, rng = Clock(), random.Random(1)
    truth = Truth([(-5.0, 300.0)])
    for gain, shown in ((1.0, False), (1.12, True)):
        sensor = Nvml(0, FakeNvml(truth, clock, gain=gain))
        status = ev.SensorStatus(device="gpu0", source="NVML", available=True, period_s=0.02,
                                 instant_period_s=0.1)
        events = [status, *run_events(PLAIN, 10, 50), *readings(sensor, clock, 7.0, 0.1, lambda: None,
                                                                rng)]
        got = energy(events, 0.0, 7.0)
        assert got.joules == pytest.approx(2100, rel=0.01), "the counter is believed"
        assert any("differs from the counter by +12 %" in b for b in got.badges) is shown
        (said,) = quality(events)
        assert said.disagreement == pytest.approx(gain - 1, abs=0.01)
        assert any("agree within" in w for w in said.words) is not shown
        assert ("[" in format_of(events)) is shown, "the badge stands on the number"


def format_of(events: list[ev.Event]) -> str:
    from workbench.analysis import format_metric

    return format_metric(summarize(events)["j_per_token"])


@pytest.mark.parametrize("window", [0.5, 1.0])
def test_what_the_averaged_field_averages_over_is_found(window: float) -> None:
    clock, rng = Clock(), random.Random(2)
    steps, t = [(-5.0, 90.0)], 0.0
    while t < 9:
        steps.append((t, rng.uniform(150, 650)))
        t += rng.uniform(0.2, 0.9)
    sensor = Nvml(0, FakeNvml(Truth(steps), clock, window_s=window))
    status = ev.SensorStatus(device="gpu0", source="NVML", available=True, period_s=0.02)
    events = [status, *readings(sensor, clock, 9.0, 0.1, lambda: None, rng)]
    (said,) = quality(events)
    assert said.window_s == pytest.approx(window + 0.05, rel=0.15)  # it is also half a period old
    constant = Nvml(0, FakeNvml(Truth([(-5.0, 90.0)]), clock))
    clock.now = 0.0
    (said,) = quality([status, *readings(constant, clock, 9.0, 0.1, lambda: None, rng)])
    assert said.window_s is None, "a power that never moves says nothing about averaging"


def test_badges_stand_on_every_energy_number() -> None:
    clock, rng = Clock(), random.Random(1)
    sensor = Nvml(0, FakeNvml(Truth([(-5.0, 300.0)]), clock, throttled=0x4))
    status = ev.SensorStatus(device="gpu0", source="NVML", available=True, period_s=0.02)
    taken = [msgspec.structs.replace(e, others=0.3)
             for e in readings(sensor, clock, 7.0, 0.1, lambda: None, rng)]
    metrics = summarize([status, *run_events(PLAIN, 10, 50), *taken])
    for name in ("j_per_token", "decode_j_per_token", "mean_w"):
        assert "throttled 100 % of the time (power cap)" in metrics[name].badges
        assert "others did 30 % of the device's work" in metrics[name].badges
    slow = msgspec.structs.replace(status, period_s=1.0)
    short = summarize([slow, *run_events(PLAIN, 10, 50), *taken])["j_per_token"]
    assert short.value is None
    assert "too short for the sensor" in short.badges
