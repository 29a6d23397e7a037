"""The report in a real browser: charts drawn, nothing executed, nobody asked."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from workbench import events as ev
from workbench.report import write
from workbench.settings import Settings
from workbench.store import Store

pytestmark = pytest.mark.browser
EVIL = "<script>window.hacked = 1</script><img src=http://example.com/x onerror='window.hacked=2'>"
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
          "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield found
        found.close()


@pytest.fixture
def report(synthetic, tmp_path) -> Path:
    runs = []
    for label, events, changes in (
            (EVIL, synthetic.plain(30) + synthetic.kernels() + synthetic.power(0.4), {}),
            ("fast", synthetic.speculative(9), {"decoding": "prompt_lookup"})):
        writer = Store().record(Settings().with_(changes), EVIL, label, environment={})
        writer.add([*events, ev.Token(t_s=9.0, index=99, id=1, text=EVIL, step=99)])
        runs.append(writer.finish())
    return write(runs, tmp_path / "report.html")


def test_charts_draw_and_text_stays_text(browser, report):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    asked, problems = [], []
    page.on("request", lambda r: asked.append(r.url))
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("dialog", lambda d: problems.append("a dialog"))
    page.goto(report.as_uri())
    page.locator("details").evaluate_all("every => every.forEach((d) => { d.open = true; })")
    boxes = page.locator("[data-figure]")
    for i in range(boxes.count()):
        boxes.nth(i).scroll_into_view_if_needed()
    end = time.monotonic() + 60  # wait_for_function evaluates strings, which the page's policy forbids
    while not page.evaluate("() => Array.from(document.querySelectorAll('[data-figure]'))"
                            ".every((box) => box.querySelector('.main-svg'))"):
        assert time.monotonic() < end, "a figure was not drawn"
        time.sleep(0.1)
    assert boxes.count() >= 6
    assert problems == []
    assert asked == [report.as_uri()]
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img").count() == 0
    assert page.locator("h1").inner_text().startswith("<script>")
    page.close()


def test_without_scripts_the_tables_are_there(browser, report):
    page = browser.new_page(java_script_enabled=False)
    page.goto(report.as_uri())
    assert page.locator("#summary table").is_visible()
    assert not page.locator("figure:not(.blank)").first.is_visible()
    page.close()
