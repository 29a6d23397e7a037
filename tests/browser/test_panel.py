"""The dashboard for real: a server process, the engine, the bundled model, a browser.

Every request to another host is blocked and counted; each test ends with that count at zero and
with no error in the browser's console. ``WORKBENCH_SCREENSHOTS=docs/images`` keeps the picture that
the README shows.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench import zoo

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("panel")
psutil = pytest.importorskip("psutil")

CHROMIUM = os.environ.get("WORKBENCH_CHROMIUM", "/usr/bin/chromium")
pytestmark = [
    pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no browser at {CHROMIUM}"),
    pytest.mark.skipif(not zoo.names(), reason="no bundled model"),
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--force-color-profile=srgb"]
EVIL = "<script>window.owned=1</script><img src=x onerror=\"window.owned=1\"> def f(x):\n"
#: The visible text of an element, through shadow roots, which innerText leaves out.
DEEP_TEXT = """(top) => {
  const found = []
  const walk = (node) => {
    if (node.nodeType === 3) { found.push(node.data); return }
    if (node.nodeType !== 1 && node.nodeType !== 11) return
    if (['STYLE', 'SCRIPT', 'OPTION'].includes(node.nodeName)) return
    for (const child of node.childNodes) walk(child)
    if (node.shadowRoot) walk(node.shadowRoot)
  }
  walk(top)
  return found.join(' ') }"""
#: Generous: the box may be busy with other tests.
PATIENCE_S = 120


class Dashboard:
    """``workbench serve`` as a process of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    @property
    def address(self) -> str:
        return f"http://localhost:{self.port}/"

    def start(self) -> None:
        environment = {**os.environ, "WORKBENCH_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        self.log = (self.home / "server.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workbench.cli", "serve", "--port", str(self.port)],
            env=environment, stdout=self.log, stderr=subprocess.STDOUT)
        end = time.monotonic() + PATIENCE_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, (self.home / "server.log").read_text()[-3000:]
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.2)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
        self.log.close()

    def engines(self) -> list[int]:
        """Process ids of this server's engines."""
        return [p.pid for p in psutil.Process(self.process.pid).children(recursive=True)
                if "workbench.engine.worker" in " ".join(p.cmdline())]


class Tab:
    """One browser context with one page, and what it asked for."""

    def __init__(self, browser: Any, dashboard: Dashboard, **options: Any) -> None:
        self.dashboard = dashboard
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.context = browser.new_context(accept_downloads=True, **{
            "viewport": {"width": 1440, "height": 1000}, "color_scheme": "light", **options})
        self.context.route("**/*", self._request)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_S * 1000)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("console", self._console)
        self.open()

    def open(self) -> None:
        self.page.goto(self.dashboard.address)
        self.button("Run").wait_for()

    def _request(self, route: Any) -> None:
        url = route.request.url
        if url.startswith((self.dashboard.address, "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(url)
            route.abort()

    def _console(self, message: Any) -> None:
        lost = any(s in message.text for s in (
            "ERR_CONNECTION_REFUSED", "WebSocket", "websocket", "Failed to connect"))
        if message.type == "error" and not lost:
            self.errors.append(message.text)

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True).first

    def run(self, prompt: str | None = None) -> None:
        if prompt is not None:
            box = self.page.get_by_label("Prompt", exact=True)
            box.fill(prompt)
            box.blur()
        self.button("Run").click()

    def choose(self, card: str, value: str) -> None:
        """Set the method of a card of controls."""
        select = self.page.locator(".knobs", has_text=card).locator("select").first
        select.select_option(value)

    def length(self, tokens: int) -> None:
        box = self.page.locator(".knobs", has_text="Length").locator("input.bk-input").first
        box.fill(str(tokens))
        box.press("Enter")

    def tab(self, name: str) -> None:
        self.page.locator(".bk-tab", has_text=name).click()

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.evaluate(DEEP_TEXT))

    def output(self) -> str:
        return self.text(".wb-output")

    def status(self) -> str:
        chips = self.page.locator(".card.output h2 .chip")
        return str(chips.first.inner_text()) if chips.count() else ""

    def until(self, what: Callable[[], bool], seconds: float = PATIENCE_S, why: str = "") -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, (
                f"{why or 'it'} did not happen; status {self.status()!r}, "
                f"{self.page.locator('.note').all_inner_texts()}")
            self.page.wait_for_timeout(60)

    def finished(self, status: str = "done") -> None:
        self.until(lambda: self.status() == status, why=f"status {status}")

    def points(self) -> int:
        """Points in the first chart, as the browser has drawn them."""
        return int(self.page.evaluate("""() => {
          const found = []
          const walk = (node) => { for (const e of node.querySelectorAll('*')) {
            if (e.classList.contains('js-plotly-plot')) found.push(e)
            if (e.shadowRoot) walk(e.shadowRoot) } }
          walk(document)
          const trace = found[0]?.data?.[0]
          return trace ? trace.x.length : 0 }"""))

    def check(self) -> None:
        """Nothing went out, nothing ran, nothing broke."""
        assert self.outside == []
        assert self.page.evaluate("window.owned") is None
        assert self.errors == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    running = Dashboard(tmp_path_factory.mktemp("dashboard"))
    yield running
    running.stop()


@pytest.fixture
def open_tab(browser: Any, dashboard: Dashboard) -> Iterator[Callable[..., Tab]]:
    tabs: list[Tab] = []

    def open_one(**options: Any) -> Tab:
        tabs.append(Tab(browser, dashboard, **options))
        return tabs[-1]

    yield open_one
    try:
        for tab in tabs:
            tab.check()
    finally:
        for tab in tabs:
            tab.context.close()


def candidate() -> str:
    """Other weights than the default, the smallest that exist."""
    from workbench.techniques.base import family

    return next(n for n in ("int4", "int8", "fp32") if n in family("weights"))


def test_the_loop(open_tab: Callable[..., Tab], tmp_path: Path) -> None:
    """Run, watch, change the weights, run, compare, cancel, export."""
    tab = open_tab()
    tab.length(1500)
    clicked = time.monotonic()
    tab.run("def read_lines(path):\n")
    tab.page.locator("html.busy").wait_for(timeout=2000)
    print(f"busy state after {time.monotonic() - clicked:.2f} s")
    lengths, points = set(), set()
    while tab.status() not in ("done", "failed"):
        lengths.add(len(tab.output()))
        points.add(tab.points())
        assert time.monotonic() < clicked + PATIENCE_S
        tab.page.wait_for_timeout(100)
    tab.finished()
    assert len(lengths) >= 4, "the text did not stream"
    assert len(points) >= 3, "the charts did not move during the run"
    tab.until(lambda: "baseline" in tab.text(".card.detail"), why="the baseline")
    assert "tok/s" in tab.text(".tiles")

    other = candidate()
    forecast = tab.text(".card.forecast")
    tab.choose("Weights", other)
    tab.until(lambda: tab.text(".card.forecast") != forecast, 10, "the forecast's change")
    if zoo.draft_for(zoo.DEFAULT):
        tab.choose("Decoding", "draft_model")
        tab.until(lambda: "gamma" in tab.text(".side"), 10, "the draft's own controls")
    tab.button("Run").click()
    tab.until(lambda: other in tab.text(".card.output h2"), why="the second run")
    tab.finished()
    tab.tab("Comparison")
    tab.until(lambda: other in tab.text("table.grid.wide thead"), why="the second column")
    assert "baseline" in tab.text(".tiles")
    tab.tab("Requested / effective")
    tab.until(lambda: "requested" in tab.text("table.grid"), why="requested and effective")
    assert other in tab.text("table.grid")
    tab.tab("Text difference")
    tab.until(lambda: re.search("identical|agree for the first", tab.text(".card.detail"))
              is not None, why="the text difference")
    tab.tab("Settings as code")
    tab.until(lambda: f'"{other}"' in tab.text("pre.code") or other in tab.text("pre.code"))

    picture = os.environ.get("WORKBENCH_SCREENSHOTS")
    if picture:
        Path(picture).mkdir(parents=True, exist_ok=True)
        tab.tab("Comparison")
        tab.page.set_viewport_size({"width": 1440, "height": 1420})
        tab.page.evaluate("scrollTo(0, 0)")
        tab.page.wait_for_timeout(1500)
        tab.page.screenshot(path=Path(picture) / "app.png")

    tab.length(1900)
    tab.button("Run").click()
    tab.until(lambda: tab.status() == "running" and len(tab.output()) > 40, why="a long run")
    stopped = time.monotonic()
    tab.button("Cancel").click()
    tab.finished("cancelled")
    print(f"cancelled after {time.monotonic() - stopped:.2f} s")

    with tab.page.expect_download() as download:
        tab.page.get_by_role("link", name="Export report").click()
    report = tmp_path / "report.html"
    download.value.save_as(report)
    text = report.read_text(encoding="utf-8")
    assert "<html" in text
    assert other in text


def test_prompts_and_output_never_execute(open_tab: Callable[..., Tab]) -> None:
    tab = open_tab()
    tab.length(24)
    tab.run(EVIL)
    tab.finished()
    assert "<script>window.owned=1</script>" in tab.output()
    for name in ("Comparison", "Requested / effective", "Text difference", "Runs",
                 "Settings as code"):
        tab.tab(name)
        tab.page.wait_for_timeout(300)
    assert tab.page.evaluate("window.owned") is None


def test_two_people_are_isolated_and_take_turns(open_tab: Callable[..., Tab]) -> None:
    ada, bob = open_tab(), open_tab()
    ada.choose("Weights", "fp32")  # the slowest: the run must last while the other one clicks
    ada.length(1900)
    ada.run("ada's own prompt ")
    ada.until(lambda: ada.status() == "running" and len(ada.output()) > 40, why="ada's run")
    bob.length(16)
    bob.run("bob's own prompt ")
    bob.until(lambda: "in the queue" in bob.output(), 20, "bob's place in the queue")
    assert bob.status() == "queued"
    ada.button("Cancel").click()
    ada.finished("cancelled")
    bob.finished()
    assert "ada" not in bob.output()
    bob.tab("Runs")
    bob.until(lambda: "Show" in bob.text(".card.detail"), why="bob's runs")
    assert bob.page.locator(".runline").count() == 1


def test_a_killed_engine_is_one_sentence_and_the_next_run_works(
        open_tab: Callable[..., Tab], dashboard: Dashboard) -> None:
    tab = open_tab()
    tab.length(1900)
    tab.run("def main():\n")
    tab.until(lambda: tab.status() == "running" and len(tab.output()) > 30, why="the run")
    for pid in dashboard.engines():
        os.kill(pid, signal.SIGKILL)
    tab.finished("failed")
    sentence = tab.text(".note.error")
    assert "engine" in sentence
    assert "Traceback" not in sentence
    assert "\n" not in sentence.strip()
    tab.length(16)
    tab.button("Run").click()
    tab.finished()


def test_a_restarted_server_keeps_runs_and_settings(
        open_tab: Callable[..., Tab], dashboard: Dashboard) -> None:
    tab = open_tab()
    tab.length(17)
    tab.run("def keep(me):\n")
    tab.finished()
    dashboard.stop()
    tab.page.locator("html.lost").wait_for()
    dashboard.start()
    tab.until(lambda: tab.page.locator("html.lost").count() == 0, why="the page's return")
    tab.button("Run").wait_for()
    tab.tab("Runs")
    tab.until(lambda: tab.page.locator(".runline").count() >= 1, why="the kept run")
    tab.page.locator(".runrow").first.get_by_role("button", name="Show").click()
    tab.until(lambda: "def keep(me)" in tab.output(), why="the recorded text")
    tab.page.locator(".runrow").first.get_by_role("button", name="Replay").click()
    tab.finished()
    box = tab.page.locator(".knobs", has_text="Length").locator("input.bk-input").first
    assert box.input_value() == "17"


@pytest.mark.parametrize("width", [420, 900, 1280])
def test_no_width_scrolls_sideways(open_tab: Callable[..., Tab], width: int) -> None:
    tab = open_tab(viewport={"width": width, "height": 900}, color_scheme="dark")
    assert tab.page.evaluate("document.documentElement.dataset.theme") == "dark"
    tab.length(8)
    tab.run("def narrow():\n")
    tab.finished()
    spill = tab.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert spill <= 1
