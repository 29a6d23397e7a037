"""Charts are computed again only when their own events came; the static drawing is sound SVG."""

from __future__ import annotations

import xml.etree.ElementTree as tree

import pytest

from workbench import events as ev
from workbench.analysis.live import Live
from workbench.widgets.figures import Figures
from workbench.widgets.svg import svg, ticks


def _events() -> list[ev.Event]:
    return [
        *(ev.Token(t_s=0.1 * i, index=i, id=i, text=f"<b>{i}</b>", step=i) for i in range(9)),
        *(ev.Memory(t_s=0.1 * i, tier=t, total_bytes=(i + 1) << 20, weights_bytes=1 << 20)
          for i in range(4) for t in ("gpu", "ram")),
        ev.Kernel(window=0, phase="decode", layer=0, name="mm", kind="op", cls="matmul",
                  device="cpu", calls=3, total_s=.01, mean_s=.003, min_s=.003, max_s=.004),
        ev.Kernel(window=0, phase="verify", layer=0, name="add", kind="op", cls="elementwise",
                  device="cpu", calls=3, total_s=.02, mean_s=.003, min_s=.003, max_s=.004),
        ev.Power(t_s=.1, device="gpu0", source="nvml", instant_w=100.0),
        ev.Power(t_s=.5, device="gpu0", source="nvml", instant_w=120.0),
        ev.Draft(step=1, drafted=4, accepted=2, emitted=3),
        ev.Draft(step=2, drafted=4, accepted=4, emitted=5)]


def test_only_what_changed_is_drawn_again() -> None:
    live, figures = Live(), Figures()
    assert set(figures.update(live)) == {"speed", "kernels", "memory", "power", "acceptance"}
    live.feed([ev.Memory(tier="ram", total_bytes=5)])
    assert set(figures.update(live)) == {"memory"}
    live.feed([ev.Note(text="x")])
    assert figures.update(live) == {}
    assert figures.current["acceptance"] == {}


def test_every_chart_has_a_static_drawing() -> None:
    live = Live()
    live.feed(_events())
    figures = Figures().update(live)
    for name, figure in figures.items():
        root = tree.fromstring(svg(figure, "<script>"))
        assert root.tag == "svg"
        shapes = [e for e in root.iter() if e.tag in ("path", "rect")]
        assert shapes, name


def test_an_empty_chart_says_why() -> None:
    drawn = svg(Figures().update(Live())["speed"])
    assert "No tokens yet" in "".join(tree.fromstring(drawn).itertext())
    assert svg({}) == ""


def test_text_in_a_figure_cannot_become_markup() -> None:
    figure = {"data": [{"type": "bar", "x": ["<script>alert(1)</script>"], "y": [1],
                        "name": "a<b", "marker": {"color": 'red"/><script>'}}],
              "layout": {"annotations": [{"text": "<img src=x onerror=1> &lt;b&gt;"}]}}
    drawn = svg(figure)
    assert "<script" not in drawn
    assert "<img" not in drawn
    tree.fromstring(drawn)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 37.2), (0, 1e9), (3, 3), (-2, 5)])
def test_ticks_lie_inside_and_are_few(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in found)


def test_live_keeps_drafts_apart_and_merges_plain_text() -> None:
    live = Live()
    live.feed(ev.Token(index=i, id=i, text="x", step=i) for i in range(5))
    live.feed([ev.Token(index=5, id=5, text="y", source="draft", step=6),
               ev.Token(index=6, id=6, text="z", source="bonus", step=6)])
    assert live.pieces[0] == [("plain", "xxxxx", 0), ("draft", "y", 6), ("bonus", "z", 6)]
    assert live.text() == "xxxxxyz"
    assert live.tokens == 7
    assert live.text(3) == ""
