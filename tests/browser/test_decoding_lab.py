"""The decoding lab in a browser: the ribbon follows a run in the dashboard, the canvas in a notebook."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.browser.test_notebook import Lab
from tests.browser.test_panel import Dashboard, Tab
from workbench import zoo

nbformat = pytest.importorskip("nbformat")
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600),
              pytest.mark.skipif(zoo.DIFFUSION not in zoo.names(), reason="no bundled models")]
#: The visible pictures' first traces: kind, names of the rows, text of the cells.
PICTURES = """() => {
    const found = [];
    const walk = (node) => { for (const e of node.querySelectorAll('*')) {
        if (e.classList.contains('js-plotly-plot') && e.clientWidth && e.data?.length)
            found.push({ type: e.data[0].type, rows: (e.data[0].y || []).map(String),
                         words: (e.data[0].text || []).flat().filter(Boolean), traces: e.data.length });
        if (e.shadowRoot) walk(e.shadowRoot); } };
    walk(document);
    return found; }"""


def ribbon(page: Any) -> list[str]:
    """The steps that the ribbon shows now."""
    return next((p["rows"] for p in page.evaluate(PICTURES) if p["type"] == "heatmap"), [])


def ask(tab: Tab, question: str) -> None:
    """Open a question of the dashboard."""
    tab.tab("Explain")
    menu = tab.page.locator("select", has=tab.page.locator("option", has_text=question)).first
    menu.wait_for()
    menu.select_option(label=next(t for t in menu.locator("option").all_text_contents()
                                  if t.startswith(question)))


def test_the_ribbon_streams_in_the_dashboard(chromium: Any, tmp_path: Path) -> None:
    dashboard, tab = Dashboard(tmp_path), None
    try:
        tab = Tab(chromium, dashboard)
        tab.length(1900)
        tab.choose("Decoding", "jacobi")  # one that takes its time
        tab.until(lambda: "window" in tab.text(".side"), why="the method's own controls")
        ask(tab, "Speculation:")
        tab.run("def read_lines(path):\n")
        seen: set[tuple[str, ...]] = set()
        while tab.status() not in ("done", "failed"):
            if tab.status() == "running" and (steps := ribbon(tab.page)):
                seen.add(tuple(steps))
            tab.page.wait_for_timeout(60)
        tab.finished()
        assert len(seen) >= 2, "the ribbon did not move during the run"
        tab.until(lambda: len(ribbon(tab.page)) == 24, why="the last steps")
        tab.check()
    finally:
        if tab is not None:
            tab.context.close()
        dashboard.stop()


class DiffusionLab(Lab):
    """A notebook that opens the bundled masked-diffusion model."""

    def write(self) -> None:
        cell = nbformat.v4.new_code_cell('import workbench as wb\nbench = wb.open("wb-dlm")\nbench')
        book = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": {
            "name": "python3", "display_name": "Python 3", "language": "python"}})
        nbformat.write(book, self.folder / "bench.ipynb")


def test_the_canvas_and_its_price_in_a_notebook(chromium: Any, outside: Any, tmp_path: Path) -> None:
    lab = DiffusionLab(tmp_path, chromium, outside)
    try:
        lab.run("reverse tiger apple drum =")
        lab.finish()
        lab.tab("Explain")
        lab.page.locator("[data-question=canvas]").click()
        words = lab.until(lambda: [w for p in lab.page.evaluate(PICTURES) if p["type"] == "heatmap"
                                   for w in p["words"] if w != "·"], "no canvas was drawn")
        assert sorted(w for w in words if "eos" not in w) == ["apple", "drum", "tiger"]
        lab.page.locator("[data-question=parallelism]").click()
        lab.until(lambda: any(p["traces"] > 20 for p in lab.page.evaluate(PICTURES)), "no figure of quality")
        offer = lab.page.locator(".wb-try").first
        assert "Try diffusion_" in offer.inner_text()
        offer.click()
        lab.until(lambda: lab.page.locator("select[data-path='decoding']").input_value() != "plain",
                  "the offer changed nothing")
        time.sleep(0.3)
        lab.finish()
        assert lab.errors == []
        assert lab.outside.asked == []
    finally:
        lab.close()
