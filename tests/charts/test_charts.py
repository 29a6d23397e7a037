"""Figures that Plotly accepts, that say why they are empty, and in which text stays text."""

from __future__ import annotations

import json
from dataclasses import dataclass

import plotly.graph_objects as go
import pytest

from workbench import analysis, charts
from workbench import events as ev

EVIL = '<script>alert(1)</script><b>&"\'\n\x00'


@dataclass
class Fake:
    id: str
    label: str
    metrics: dict[str, ev.Metric]


def figures(s, label="a run"):
    """Every chart with something in it."""
    a, b = s.plain(30), s.speculative(6)
    quality = [ev.Quality(metric="kl_mean", value=0.01, se=0.001)]
    runs = [Fake("1", label, analysis.summarize(a + quality)),
            Fake("2", label, analysis.summarize(b + quality))]
    compared = analysis.compare(runs)
    fall = analysis.waterfall(a, b)
    memory = [ev.Memory(t_s=t, tier=tier, total_bytes=9 << 20, weights_bytes=4 << 20)
              for tier in ("gpu", "ram", "disk") for t in (0.0, 1.0)]
    return {
        "tokens": charts.tokens_per_second(analysis.tokens(a)),
        "several": charts.tokens_per_second({label: analysis.tokens(a), "b": analysis.tokens(b)}),
        "kernels": charts.kernels_by_phase(analysis.kernels(s.kernels())),
        "memory": charts.memory_by_tier(analysis.memory(memory)),
        "power": charts.power(analysis.power(s.power())),
        "acceptance": charts.acceptance(analysis.drafts(b)),
        "comparison": charts.comparison(compared),
        "waterfall": charts.waterfall(fall.frame(), label, label),
        "quality": charts.quality(compared)}


EMPTY = {
    "tokens": lambda: charts.tokens_per_second(analysis.tokens([])),
    "kernels": lambda: charts.kernels_by_phase(analysis.kernels([])),
    "memory": lambda: charts.memory_by_tier(analysis.memory([])),
    "power": lambda: charts.power(analysis.power([]), analysis.sensors([])),
    "acceptance": lambda: charts.acceptance(analysis.drafts([])),
    "comparison": lambda: charts.comparison(analysis.compare([])),
    "quality": lambda: charts.quality(analysis.compare([])),
}


def test_plotly_accepts_every_figure_and_they_are_json(synthetic):
    for name, figure in figures(synthetic).items():
        assert figure["data"], name
        go.Figure(json.loads(json.dumps(figure, allow_nan=False)))


@pytest.mark.parametrize("name", EMPTY)
def test_empty_input_gives_a_sentence(name):
    figure = EMPTY[name]()
    go.Figure(figure)
    assert figure["data"] == []
    assert figure["layout"]["annotations"][0]["text"].rstrip().endswith(".")
    assert len(figure["layout"]["meta"]["empty"].split()) > 2


def test_the_same_input_gives_the_same_figure(synthetic):
    assert json.dumps(figures(synthetic)) == json.dumps(figures(synthetic))


def test_axes_carry_units(synthetic):
    for name, figure in figures(synthetic).items():
        if name in ("comparison",):
            continue
        titles = [v["title"]["text"] for k, v in figure["layout"].items() if "axis" in k]
        assert any(u in t for t in titles for u in ("(s)", "(ms)", "tok/s", "W", "step", "ms per token",
                                                    "(tok/s)")), name


def test_no_text_becomes_markup(synthetic):
    for name, figure in figures(synthetic, EVIL).items():
        text = json.dumps(figure)
        assert "<script" not in text, name
        assert "<b>" not in text, name
    odd = [ev.Power(device=EVIL, source=EVIL, instant_w=1.0),
           ev.Power(t_s=1.0, device=EVIL, source=EVIL, instant_w=1.0)]
    assert "<script" not in json.dumps(charts.power(analysis.power(odd)))
    strange = [ev.Kernel(window=0, phase=EVIL, layer=0, name=EVIL, kind="op", cls=EVIL, device="cpu",
                         calls=1, total_s=1, mean_s=1, min_s=1, max_s=1)]
    assert "<script" not in json.dumps(charts.kernels_by_phase(analysis.kernels(strange)))
    reason = [ev.SensorStatus(device="cpu", source="x", available=False, reason=EVIL)]
    sentence = charts.power(analysis.power([]), analysis.sensors(reason))
    assert "<script" not in sentence["layout"]["annotations"][0]["text"]


def test_label():
    assert charts.label(EVIL) == '&lt;script&gt;alert(1)&lt;/script&gt;&lt;b&gt;&amp;"\'  '
    assert len(charts.label("x" * 500)) == 80


def test_estimated_power_says_so_and_is_dashed(synthetic):
    figure = charts.power(analysis.power(synthetic.power(quality="estimated")))
    assert figure["data"][0]["line"]["dash"] == "dash"
    assert "(estimated)" in figure["data"][0]["name"]
    assert any("estimated" in a["text"] for a in figure["layout"]["annotations"])


def test_absent_power_gives_the_reason():
    status = [ev.SensorStatus(device="cpu", source="rapl", available=False, reason="not readable")]
    figure = charts.power(analysis.power([]), analysis.sensors(status))
    assert "cpu: not readable" in figure["layout"]["annotations"][0]["text"]


def test_the_waterfall_sums(synthetic):
    fall = analysis.waterfall(synthetic.plain(30), synthetic.speculative(6))
    trace = charts.waterfall(fall.frame())["data"][0]
    assert sum(trace["y"][:-1]) == pytest.approx(trace["y"][-1])
    assert trace["measure"] == ["absolute", *["relative"] * (len(trace["y"]) - 2), "total"]


def test_memory_has_one_panel_per_tier(synthetic):
    layout = figures(synthetic)["memory"]["layout"]
    assert [layout[k]["title"]["text"] for k in ("yaxis", "yaxis2", "yaxis3")] == [
        "GPU (MiB)", "RAM (MiB)", "disk (MiB)"]


def test_long_runs_stay_small(synthetic):
    tokens = [ev.Token(t_s=i / 1000, index=i, id=i, text="", step=i) for i in range(20_000)]
    figure = charts.tokens_per_second(analysis.tokens(tokens))
    assert len(figure["data"][0]["x"]) <= 800
    assert figure["data"][0]["x"][-1] == pytest.approx(19.999)
    drafts = [ev.Draft(step=i, drafted=4, accepted=2, emitted=3) for i in range(5000)]
    assert len(charts.acceptance(analysis.drafts(drafts))["data"][0]["x"]) <= 160


def test_equal_labels_keep_their_own_bars(synthetic):
    names = figures(synthetic, "same")["comparison"]["data"][0]["y"]
    assert names == ["same", "same (2)"]


def test_ink_can_be_changed(synthetic):
    figure = figures(synthetic)["tokens"]
    dark = charts.inked(figure, "#ffffff", "#333333")
    assert dark["layout"]["font"]["color"] == "#ffffff"
    assert figure["layout"]["font"]["color"] != "#ffffff"
