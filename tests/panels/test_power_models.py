"""The panel of power models: nothing without measurements, labelled where it simulates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from tests.synthetic import plain
from workbench import events as ev
from workbench.energy import gemm, gemm_store
from workbench.energy.gemm import Product
from workbench.machine import this_machine
from workbench.panels import panel
from workbench.panels import plain as as_plain
from workbench.settings import Settings
from workbench.store import Store


def content(tmp_path: Path, events: list[ev.Event]) -> Any:
    writer = Store(tmp_path).record(requested=Settings(), prompt="p", label="a run")
    writer.add(events)
    writer.finish(status="done")
    said = panel("power_models").content(writer.run)
    json.dumps(as_plain(said), allow_nan=False)
    for figure in said.figures:
        go.Figure(figure)
    return said


def power(seconds: float) -> list[ev.Event]:
    return [ev.Power(t_s=0.1 * i, device="gpu0", source="NVML", instant_w=500.0 if i % 50 < 8 else 300.0)
            for i in range(round(10 * seconds))]


def keep_a_fit() -> None:
    products = [Product(m, 256, 256, "bf16", 1e-6 * m) for m in (1, 8, 64, 512)]
    error = {"split": "shapes held out", "method": "physics + forest", "median": 0.087, "mean": 0.1,
             "p90": 0.28, "r2": 0.99, "rows": 4}
    gemm_store.save(this_machine(), gemm_store.Fitted(
        gemm.fit_time(products, trees=0), None, "no counter here", [error], [(1e-3, 1.1e-3)], "cpu", 2, 4,
        "2026-01-01"), products)


def test_without_measurements_it_says_what_to_do(tmp_path: Path) -> None:
    said = content(tmp_path, plain(50))
    assert "workbench power model --measure" in said.empty
    assert "no measured power" in said.empty


def test_the_held_out_error_comes_with_the_model(tmp_path: Path) -> None:
    keep_a_fit()
    said = content(tmp_path, plain(50))
    text = " ".join(said.sentences)
    assert "8.7 % in the median" in text
    assert "no counter here" in text
    assert round(said.tables[0].rows[0][2], 6) == 8.7


def test_a_recorded_run_fills_a_row_that_is_called_simulated(tmp_path: Path) -> None:
    said = content(tmp_path, [*plain(50), *power(30)])
    assert any(s.startswith("Simulated, not measured") for s in said.sentences)
    servers = [r[0] for r in said.tables[0].rows]
    assert servers == [40, 44, 48, 52, 56, 60]
    assert "(simulated)" in said.figures[0]["layout"]["title"]["text"]


def test_a_short_recording_is_not_stretched(tmp_path: Path) -> None:
    said = content(tmp_path, [*plain(50), *power(3)])
    assert "10 s are needed" in said.empty
