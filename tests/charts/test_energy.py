"""Charts of joules: accepted by Plotly, empty with a reason, text inert."""

from __future__ import annotations

import json

import plotly.graph_objects as go
import pytest

from workbench.analysis.energy_phases import PhaseEnergy
from workbench.analysis.energy_shares import Share
from workbench.charts import energy as charts

EVIL = "<script>alert(1)</script>"


def figures() -> dict[str, dict]:
    share = Share("decode", EVIL, 0.5, 10.0, 1.0, 4.0, 15.0, 100)
    points = [{"value": v, "unit": EVIL, "j_per_token": 1.0, "se": 0.1, "tok_per_s": 9.0} for v in (300, 400)]
    return {
        "phases": charts.energy_by_phase([PhaseEnergy("prefill", 1.0, 400.0, 4.0, 1000, 300.0, 5.0),
                                          PhaseEnergy("decode", 5.0, 1000.0, 9.0, 200, 800.0, 9.0)]),
        "shares": charts.energy_shares([share]),
        "sweep": charts.power_sweep(points, 300.0),
        "row": charts.row_power([0.0, 1.0, 2.0], [1e4, 2e4, 1e4], 2.5e4, {EVIL: 0.8}),
        "fit": charts.predicted_against_measured([(1.0, 1.1), (2.0, 1.9)], EVIL)}


@pytest.mark.parametrize("name", ["phases", "shares", "sweep", "row", "fit"])
def test_plotly_accepts_it_and_text_stays_text(name: str) -> None:
    figure = figures()[name]
    go.Figure(figure)
    assert "<script" not in json.dumps(figure, allow_nan=False)


def test_bars_carry_their_error_and_the_range_of_a_share() -> None:
    found = figures()
    whole, net = found["phases"]["data"]
    assert whole["y"] == [0.4, 5.0]
    assert whole["error_y"]["array"] == [0.004, 0.045]
    assert net["y"] == [0.3, 4.0]
    (bar,) = found["shares"]["data"]
    assert bar["x"] == [0.1]
    assert (bar["error_x"]["array"], bar["error_x"]["arrayminus"]) == (pytest.approx([0.05]),
                                                                      pytest.approx([0.06]))


def test_without_idle_power_there_is_one_series() -> None:
    (only,) = charts.energy_by_phase([PhaseEnergy("decode", 5.0, 1000.0, 9.0, 200)])["data"]
    assert only["name"] == "whole"


@pytest.mark.parametrize("figure", [
    charts.energy_by_phase([PhaseEnergy("decode", 1.0, None, None, 5, reason="no sensor here")]),
    charts.energy_shares([]), charts.power_sweep([]), charts.row_power([], [], 1.0, {}),
    charts.predicted_against_measured([], "ms")])
def test_what_is_empty_says_why(figure: dict) -> None:
    assert figure["layout"]["meta"]["empty"]
    assert not figure["data"]
