"""Where it hurts, clicked for real: a square of the picture stores that matrix better, in both views."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.test_notebook import Lab
from tests.browser.test_panel import Dashboard, Tab
from workbench import zoo
from workbench.sensitivity import errors
from workbench.sensitivity.errors import Cell, ErrorMap
from workbench.settings import Settings

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600),
              pytest.mark.skipif(not zoo.names(), reason="no bundled model")]
PARTS = ("self_attn.q_proj", "mlp.down_proj")
#: The middle of a square of the picture, in the page's pixels.
PLACE = """([layer, part]) => {
    const found = [];
    const walk = (node) => { for (const e of node.querySelectorAll('*')) {
        if (e.classList.contains('js-plotly-plot') && e.data?.[0]?.type === 'heatmap' && e.clientWidth)
            found.push(e);
        if (e.shadowRoot) walk(e.shadowRoot); } };
    walk(document);
    if (!found.length || !found[0]._fullLayout?.xaxis?.d2p) return null;
    const plot = found[0];
    plot.scrollIntoView({ block: 'center' });
    const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
    return [box.x + xaxis._offset + xaxis.d2p(layer), box.y + yaxis._offset + yaxis.d2p(part)]; }"""


def keep_map(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up map of the bundled model in this home, as if it had been measured."""
    settings = Settings()
    cells = tuple(Cell(f"model.layers.{i}.{part}", i, part, 256, 256, scheme, nbytes, 1e-3, 3e-3 * loss,
                       loss * (i + 1), None) for i in range(8) for part in PARTS
                  for scheme, nbytes, loss in (("int8", 1 << 16, 1e-6), ("int4", 36 << 10, 1e-3)))
    monkeypatch.setenv("WORKBENCH_HOME", str(home))
    errors.save(ErrorMap({"tokens": 512, "text": "bundled", "dtype": "float32"}, cells),
                errors.folder(settings) / "map.json")


def click(page: Any, until: Callable[[Callable[[], Any], str], Any], layer: int, part: str) -> None:
    until(lambda: page.evaluate(PLACE, [layer, part]), "the picture was not drawn")
    time.sleep(0.5)  # the page scrolls to it
    x, y = page.evaluate(PLACE, [layer, part])
    page.mouse.move(x, y)
    time.sleep(0.3)
    page.mouse.click(x, y)
    if os.environ.get("WORKBENCH_SCREENSHOTS"):
        page.screenshot(path=str(Path(os.environ["WORKBENCH_SCREENSHOTS"]) / "error_map.png"))


@pytest.fixture
def lab(chromium: Any, outside: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    keep_map(tmp_path / "home", monkeypatch)
    made = Lab(tmp_path, chromium, outside)
    yield made
    made.close()


def test_in_the_notebook(lab: Lab) -> None:
    lab.choose("weights", "int4")
    lab.until(lambda: lab.page.locator("[data-path='weights.group']").count(), "no int4 controls")
    lab.length(16)
    lab.run()
    lab.finish()
    lab.tab("Explain")
    lab.page.locator("[data-question=error_map]").click()
    click(lab.page, lambda true, why: lab.until(true, why), 5, "mlp.down_proj")
    weights = lab.page.locator("select[data-path='weights']")
    lab.until(lambda: weights.input_value() == "mixed", "the click changed nothing")
    raised = lab.page.locator("input[data-path='weights.raised']")
    assert raised.input_value() == "layers.5.mlp.down_proj:int8"
    lab.finish()
    click(lab.page, lambda true, why: lab.until(true, why), 2, "whole layer")
    lab.until(lambda: raised.input_value() == "layers.5.mlp.down_proj:int8 layers.2:int8", "no second click")
    lab.finish()
    assert lab.errors == []
    assert lab.outside.asked == []


def test_in_the_dashboard(chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_map(tmp_path, monkeypatch)
    dashboard = Dashboard(tmp_path)
    tab = None
    try:
        tab = Tab(chromium, dashboard)
        tab.choose("Weights", "int4")
        tab.length(16)
        tab.run("def f(")
        tab.finished()
        tab.tab("Explain")
        menu = tab.page.locator("select", has=tab.page.locator("option", has_text="Where it hurts")).first
        menu.wait_for()
        menu.select_option(label=next(t for t in menu.locator("option").all_text_contents()
                                      if t.startswith("Where it hurts")))
        click(tab.page, lambda true, why: tab.until(true, why=why), 5, "mlp.down_proj")
        card = tab.page.locator(".knobs", has_text="Weights")
        tab.until(lambda: card.locator("select").first.input_value() == "mixed", why="a change of weights")
        tab.finished()
        assert "layers.5.mlp.down_proj:int8" in [i.input_value() for i in card.locator("input").all()]
        tab.check()
    finally:
        if tab is not None:
            tab.context.close()
        dashboard.stop()
