"""The energy panel: what it says with a sensor, without one, with an estimate, and beside a baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import plotly.graph_objects as go
import pytest

from tests.synthetic import plain
from workbench import events as ev
from workbench.panels import panel
from workbench.panels import plain as as_plain
from workbench.settings import Settings
from workbench.store import Store

END_S = 0.1 + 199 * 0.011


def power(watts: float = 50.0, quality: str = "measured", **status: Any) -> list[ev.Event]:
    """A counter and an instant field that agree, read every 10 ms."""
    seen = ev.SensorStatus(device="gpu0", source="NVML", available=True, period_s=0.02, quality=quality,
                           instant_period_s=0.02, **status)
    return [seen, *(ev.Power(t_s=0.01 * i, device="gpu0", source="NVML", instant_w=watts,
                             energy_j=None if quality == "estimated" else watts * 0.01 * i,
                             low_w=0.5 * watts, high_w=2 * watts, quality=quality, took_s=0.002)
                    for i in range(round(END_S / 0.01) + 1))]


def kernels(n: int = 8) -> list[ev.Event]:
    """Windows of one decoding step: 6 ms of products, 2 ms of attention, 2 ms of nothing."""
    found: list[ev.Event] = []
    for w in range(n):
        start = 0.1 + 0.011 * 10 * w
        found.append(ev.KernelWindow(window=w, start_s=start, end_s=start + 0.01, preset="light", steps=1))
        found += [ev.Kernel(window=w, phase="decode", layer=layer, name=name, kind="kernel", cls=cls,
                            device="gpu0", calls=1, total_s=s, mean_s=s, min_s=s, max_s=s)
                  for layer, name, cls, s in ((0, "mm", "matmul", 0.004), (1, "mm", "matmul", 0.002),
                                              (0, "attn", "attention", 0.002))]
    return found


def content(tmp_path: Path, events: list[ev.Event], changes: dict[str, Any] | None = None,
            base: Any = None) -> tuple[Any, Any]:
    writer = Store(tmp_path).record(requested=Settings().with_(changes or {}), prompt="p",
                                    label="<b>base</b>")
    writer.add(events)
    writer.finish(status="done")
    said = panel("energy").content(writer.run, base)
    json.dumps(as_plain(said), allow_nan=False)
    for figure in said.figures:
        go.Figure(figure)
    return said, writer.run


def test_a_measured_run_says_joules_doubt_idle_money_and_carbon(tmp_path: Path) -> None:
    events = plain(200) + power(idle_w=20.0, idle_se_w=0.2, idle_basis="5 s before the run") + kernels()
    said, _ = content(tmp_path, events, {"telemetry.grid_g_per_kwh": 100, "telemetry.price_per_kwh": 0.5})
    text = " ".join(said.sentences)
    whole = 50 * END_S / 200
    assert f"{whole:.3g} ± " in text
    assert f"{30 * END_S / 200:.3g} ± " in text
    assert text.index(f"{whole:.3g} ±") < text.index(f"{30 * END_S / 200:.3g} ±")
    kwh = whole * 1e6 / 3.6e6
    assert f"{kwh:.3g} kWh, {100 * kwh:.3g} g CO2, {0.5 * kwh:.3g}" in text
    assert "agree within 5 %" in text
    assert "5 s before the run" in text
    phases = said.tables[0]
    joules = {r[0]: r[2] for r in phases.rows}
    assert joules["prefill"] == pytest.approx(50 * 0.1, rel=0.25)
    assert joules["decode"] == pytest.approx(50 * (END_S - 0.1), rel=0.03)
    classes = {r[1]: r for r in said.tables[1].rows}
    assert classes["matmul"][2] == pytest.approx(60, abs=1)
    assert classes["between kernels"][2] == pytest.approx(20, abs=1)
    layers = {r[1]: r[2] for r in said.tables[2].rows}
    assert layers["layer 00"] == pytest.approx(60, abs=1)
    least, most = classes["matmul"][5], classes["matmul"][6]
    assert least < classes["matmul"][3] <= most


def test_the_control_decides_which_figure_leads(tmp_path: Path) -> None:
    events = plain(200) + power(idle_w=20.0, idle_se_w=0.2, idle_basis="x")
    said, _ = content(tmp_path, events, {"telemetry.subtract_idle": True})
    first = said.sentences[0]
    assert first.index("above idle power") < first.index("in all")


def test_without_a_sensor_there_is_a_reason_and_no_number(tmp_path: Path) -> None:
    absent = ev.SensorStatus(device="cpu", source="RAPL", available=False, reason="no counter here")
    said, _ = content(tmp_path, [*plain(200), absent])
    assert "no counter here" in " ".join(said.sentences)
    assert not said.figures
    assert not said.tables
    assert said.actions[0].changes == {"telemetry.estimate_cpu_power": True}


def test_an_estimate_says_so_in_words_chart_and_table(tmp_path: Path) -> None:
    said, _ = content(tmp_path, plain(200) + power(quality="estimated"))
    assert said.sentences[0].startswith("Estimated, not measured")
    assert "factor of two" in " ".join(said.sentences)
    assert not said.figures, "an estimate is a total; nothing finer is drawn"
    assert said.tables[-1].rows[0][2] == "estimated"


def test_measured_and_estimated_joules_are_never_added(tmp_path: Path) -> None:
    guess = [msgspec.structs.replace(e, device="cpu", source="model")
             for e in power(100.0, "estimated")]
    said, run = content(tmp_path, plain(200) + power() + guess)
    assert run.metrics["j_per_token"].value == pytest.approx(50 * END_S / 200, rel=0.02)
    assert run.metrics["j_per_token"].quality == "measured"
    assert "Not in that figure, estimated only: cpu" in " ".join(said.sentences)


def test_a_baseline_of_another_quality_is_not_compared(tmp_path: Path) -> None:
    _, measured = content(tmp_path / "a", plain(200) + power(60.0))
    said, _ = content(tmp_path / "b", plain(200) + power(), base=measured)
    assert "-16.7 % J per token" in " ".join(said.sentences)
    said, _ = content(tmp_path / "c", plain(200) + power(quality="estimated"), base=measured)
    assert "are not compared" in " ".join(said.sentences)


def test_too_short_offers_a_longer_run(tmp_path: Path) -> None:
    slow = [msgspec.structs.replace(e, period_s=1.0, instant_period_s=1.0)
            if isinstance(e, ev.SensorStatus) else e for e in power()]
    said, _ = content(tmp_path, plain(200) + slow)
    assert "too short for the sensor" in " ".join(said.sentences)
    assert any("limits.max_new_tokens" in a.changes for a in said.actions)


def test_what_watching_costs_is_nobodys_energy(tmp_path: Path) -> None:
    """Watched forwards take twice as long; kernels keep their share of an unwatched one."""
    events: list[ev.Event] = []
    t = 0.0
    for i in range(100):
        took = 0.02 if i % 10 == 0 else 0.01
        events.append(ev.Phase(t_s=t + took, phase="decode", start_s=t, end_s=t + took, step=i, rows=1))
        events.append(ev.Token(t_s=t + took, index=i, id=i, text="a", step=i))
        if i % 10 == 0:
            events += [ev.KernelWindow(window=i, start_s=t, end_s=t + took, preset="light", steps=1),
                       ev.Kernel(window=i, phase="decode", layer=0, name="mm", kind="op", cls="matmul",
                                 device="cpu", calls=1, total_s=0.007, mean_s=0.007, min_s=0.007,
                                 max_s=0.007)]
        t += took
    said, _ = content(tmp_path, events + power())
    share = {r[1]: r[2] for r in said.tables[1].rows}
    assert share["matmul"] == pytest.approx(70, abs=1)
