"""The panel of the error map: what hurts most comes first, and its clicks are settings that work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from workbench.charts import error_map as charts
from workbench.panels import panel
from workbench.panels import plain as as_plain
from workbench.sensitivity import errors, plan
from workbench.sensitivity.errors import Cell, ErrorMap
from workbench.settings import Settings
from workbench.store import Store

PARTS = ("self_attn.q_proj", "mlp.down_proj")
SCHEMES = {"int8": (1 << 16, 1e-6), "int4": (36 << 10, 1e-3), "int4(group=32)": (40 << 10, 7e-4)}


def cell(layer: int, part: str, scheme: str, kl: bool = True) -> Cell:
    nbytes, loss = SCHEMES[scheme]
    loss *= 50.0 if (layer, part) == (2, "mlp.down_proj") else 1.0 + layer
    return Cell(f"model.layers.{layer}.{part}", layer, part, 256, 256, scheme, nbytes, loss / 2, 3 * loss,
                loss if kl else None, loss / 10 if kl else None)


def made(kl: bool = True) -> ErrorMap:
    about = {"tokens": 512, "text": "bundled", "dtype": "float32"}
    return ErrorMap(about, tuple(cell(i, p, s, kl) for i in range(4) for p in PARTS for s in SCHEMES))


def content(settings: Settings, found: ErrorMap | None) -> Any:
    if found is not None:
        errors.save(found, errors.folder(settings) / "map.json")
    writer = Store().record(requested=settings, prompt="p", label="a run")
    said = panel("error_map").content(writer.finish(status="done"))
    json.dumps(as_plain(said), allow_nan=False)
    for figure in said.figures:
        go.Figure(figure)
    return said


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))


def test_without_a_map_it_says_how_to_make_one() -> None:
    said = content(Settings(), None)
    assert "workbench plan" in said.empty
    assert Settings().with_(dict(said.actions[0].changes)).weights.name() == "mixed"


def test_the_worst_matrix_comes_first_and_is_raised_by_one_click() -> None:
    settings = Settings().with_(weights="int4")
    said = content(settings, made())
    assert "model.layers.2.mlp.down_proj costs most: 5.00e-02" in said.sentences[0]
    assert "mlp.down_proj has the largest share" in said.sentences[1]
    assert said.tables[0].rows[0][0] == "model.layers.2.mlp.down_proj"
    assert said.tables[0].rows[0][6] == pytest.approx(4.5)
    raised = settings.with_(dict(said.actions[0].changes)).weights
    assert raised.to_dict()["plan"] == "int4"
    assert raised.to_dict()["raised"] == "layers.2.mlp.down_proj:int4/group=32"
    layer = next(a for a in said.actions if "layer 2" in a.label)
    assert settings.with_(dict(layer.changes)).weights.to_dict()["raised"] == "layers.2:int8"
    best = said.actions[-1]
    assert settings.with_(dict(best.changes)).weights.to_dict()["bits"] == pytest.approx(4.5, abs=0.011)


def test_clicks_of_a_mixture_keep_what_was_raised_before() -> None:
    settings = Settings().with_({"weights": "mixed", "weights.raised": "layers.0:int8", "weights.bits": 5.0})
    said = content(settings, made())
    weights = settings.with_(dict(said.actions[0].changes)).weights.to_dict()
    assert weights["raised"].split() == ["layers.0:int8", "layers.2.mlp.down_proj:int4/group=32"]
    assert weights["bits"] == 5.0


def test_a_click_into_the_picture_raises_that_matrix_or_that_layer() -> None:
    settings = Settings().with_(weights="int4")
    said = content(settings, made())
    heat = said.figures[0]
    assert heat["layout"]["meta"] == {"picks": True}
    trace = heat["data"][0]
    for i, part in enumerate(PARTS):
        for layer in range(4):
            action = said.picked(trace["customdata"][i][layer])
            raised = settings.with_(dict(action.changes)).weights.to_dict()
            assert raised["raised"] == f"layers.{layer}.{part}:int4/group=32"
            assert raised["plan"] == "int4"
    whole = said.picked(trace["customdata"][trace["y"].index("whole layer")][3])
    assert settings.with_(dict(whole.changes)).weights.to_dict()["raised"] == "layers.3:int8"
    assert [said.picked(x) for x in (-1, len(said.picks), None, "0", True, 0.0)] == [None] * 6


def test_a_second_click_goes_on_from_where_the_first_one_left_it() -> None:
    settings, seen = Settings().with_(weights="int4"), []
    for _ in range(3):
        said = content(settings, made())
        trace = said.figures[0]["data"][0]
        settings = settings.with_(dict(said.picked(trace["customdata"][1][2]).changes))
        seen.append(settings.weights.to_dict()["raised"])
    assert seen == [f"layers.2.mlp.down_proj:{m}" for m in ("int4/group=32", "int8", "bf16")]


def test_without_divergences_the_output_error_decides() -> None:
    said = content(Settings().with_(weights="int4"), made(kl=False))
    assert "furthest off" in said.sentences[0]
    assert "model.layers.2.mlp.down_proj" in said.sentences[0]
    assert len(said.figures) == 1


def test_the_picture_has_every_matrix_in_its_place() -> None:
    values = {(c.layer, c.part): c.kl or 0.0 for c in made().of("int4")}
    figure = charts.heat(4, PARTS, values, {k: f"<b>{k}" for k in values}, "t", "nats")
    z = figure["data"][0]["z"]
    assert [len(row) for row in z] == [4, 4]
    assert max(max(row) for row in z) == z[1][2] == pytest.approx(-1.301, abs=1e-3)
    assert figure["data"][0]["text"][0][0].startswith("&lt;b&gt;")
    assert "meta" in charts.heat(4, PARTS, dict.fromkeys(values, 0.0), {}, "t", "nats")["layout"]


def test_the_ladder_runs_below_every_uniform_scheme() -> None:
    found = made()
    curve = plan.ladder(found)
    for scheme in found.methods:
        bits, loss = plan.uniform(found, scheme)
        assert min(k for b, k in curve if b <= bits + 0.3) <= loss
    figure = charts.ladder(curve, {s: plan.uniform(found, s) for s in found.methods}, (5.0, 1e-3))
    assert [t["name"] for t in figure["data"]] == ["best mixture", "one scheme everywhere", "this run"]
    go.Figure(figure)
