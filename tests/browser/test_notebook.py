"""JupyterLab for real: a server, a kernel, the engine, the bundled model, a browser.

Every request to another host is blocked and counted; the last test asserts that there was none.
``WORKBENCH_SCREENSHOTS=docs/images`` keeps the picture that the README shows.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench import zoo
from workbench.lab import lab_command

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupyterlab")
psutil = pytest.importorskip("psutil")

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600),
              pytest.mark.skipif(not zoo.names(), reason="no bundled model")]
#: Generous: the machine may be busy with other tests.
PATIENCE_S = 60
EVIL = ("<script>window.owned=1</script><img src=x onerror=\"window.owned=1\"> "
        "![x](http://example.org/x.png) $\\href{javascript:window.owned=1}{x}$ [x](javascript:1)\n")


class Lab:
    """One JupyterLab with one notebook and one browser page on it."""

    def __init__(self, folder: Path, chromium: Any, outside: Any) -> None:
        self.folder, self.outside = folder, outside
        self.errors: list[str] = []
        self.write()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = self._start()
        context = chromium.new_context(viewport={"width": 1280, "height": 1000},
                                       accept_downloads=True)
        outside.watch(context)
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_S * 1000)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.open()

    def write(self) -> None:
        cell = nbformat.v4.new_code_cell("import workbench as wb\nbench = wb.open()\nbench")
        book = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": {
            "name": "python3", "display_name": "Python 3", "language": "python"}})
        nbformat.write(book, self.folder / "bench.ipynb")

    def _start(self) -> subprocess.Popen[bytes]:
        command, more = lab_command(self.folder, port=self.port, token="t" * 32, browser=False,
                                    config=self.folder / "config")
        environment = {**os.environ, **more, "WORKBENCH_HOME": str(self.folder / "home"),
                       "OMP_NUM_THREADS": "1", "JUPYTER_RUNTIME_DIR": str(self.folder / "run")}
        self.log = (self.folder / "lab.log").open("wb")
        process = subprocess.Popen([*command, "--allow-root"], env=environment, stdout=self.log,
                                   stderr=subprocess.STDOUT, cwd=self.folder)
        self.until(lambda: self._answers(process), "the server did not start")
        return process

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, (self.folder / "lab.log").read_text()[-3000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def open(self) -> None:
        self.page.goto(f"http://127.0.0.1:{self.port}/lab/tree/bench.ipynb?token={'t' * 32}")
        self.page.get_by_text("| Idle").wait_for()
        self.page.locator("[data-id=filebrowser]").first.click()  # room for the view
        self.page.locator(".jp-CodeCell .cm-content").first.click()
        self.page.keyboard.press("Shift+Enter")
        self.page.locator(".wb-prompt").wait_for()

    def close(self) -> None:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if child.is_running():
                child.terminate()
        self.process.terminate()
        self.process.wait(30)
        self.log.close()

    # -- looking and doing ------------------------------------------------------------------

    def until(self, true: Callable[[], Any], why: str, seconds: float = PATIENCE_S) -> Any:
        end = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < end, why
            time.sleep(0.1)
        return found

    def click(self, name: str) -> None:
        self.page.locator(f"[data-button={name}]").click()

    def tab(self, name: str) -> None:
        self.page.locator(f"[data-tab='{name}']").click()

    def choose(self, path: str, value: str) -> None:
        self.page.locator(f"select[data-path='{path}']").select_option(value)

    def length(self, tokens: int) -> None:
        def taken() -> bool:
            slider = self.page.locator("[data-slider='limits.max_new_tokens']")
            box = self.page.locator("input[data-path='limits.max_new_tokens']")
            return (box.input_value() == str(tokens)
                    and slider.input_value() == str(min(tokens, 512)))  # the slider ends there

        box = self.page.locator("input[data-path='limits.max_new_tokens']")
        for patience in (5, 10, PATIENCE_S):  # the kernel's answer to something else may redraw the controls
            box.fill(str(tokens))
            box.press("Enter")
            end = time.monotonic() + patience
            while not taken() and time.monotonic() < end:
                time.sleep(0.1)
            if taken():
                break
        assert taken(), "the length was not taken"
        time.sleep(0.4)  # the kernel's answer redraws the controls once

    @property
    def state(self) -> str:
        return str(self.page.locator(".wb").get_attribute("data-state"))

    @property
    def sentence(self) -> str:
        return str(self.page.locator(".wb-sentence").inner_text())

    @property
    def text(self) -> str:
        return str(self.page.locator(".wb-output .wb-text").inner_text())

    def frames(self, chart: str) -> int:
        return int(self.page.locator(f"[data-chart={chart}]").get_attribute("data-frames") or 0)

    def run(self, prompt: str | None = None) -> None:
        if prompt is not None:
            self.page.locator(".wb-prompt").fill(prompt)
        self.click("run")
        self.until(lambda: self.state in ("running", "done", "failed"), "the run did not start")

    def finish(self, word: str = "done") -> None:
        self.until(lambda: self.state == word, f"not {word}: {self.state}, {self.sentence}")

    def engines(self) -> list[int]:
        return [p.pid for p in psutil.Process(self.process.pid).children(recursive=True)
                if "workbench.engine" in " ".join(p.cmdline())]


@pytest.fixture(scope="module")
def lab(chromium: Any, outside: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"), chromium, outside)
    yield made
    made.close()


def test_busy_within_a_tenth_of_a_second(lab: Lab) -> None:
    """Measured in the page: the click's own handler answers, whatever the kernel does."""
    lab.length(48)
    took = lab.page.evaluate("""async () => {
        const root = document.querySelector('.wb');
        const start = performance.now();
        root.querySelector('[data-button=run]').click();
        while (root.querySelector('.wb-progress').dataset.on !== '1' && performance.now() - start < 5000)
            await new Promise(requestAnimationFrame);
        return performance.now() - start; }""")
    assert took < 100
    lab.finish()
    assert len(lab.text) > 20


def test_int4_streams_and_charts_move_during_the_run(lab: Lab) -> None:
    before = lab.page.locator(".wb-forecast").inner_text()
    lab.choose("weights", "int4")
    lab.until(lambda: lab.page.locator("[data-path='weights.group']").count(), "no int4 controls")
    assert lab.page.locator(".wb-forecast").inner_text() != before, "the forecast did not move"
    lab.length(1900)  # long enough to be looked at, on a quick machine too
    lab.run()
    lengths, frames = set(), set()
    while lab.state == "running":
        lengths.add(len(lab.text))
        frames.add(lab.frames("speed"))
        time.sleep(0.1)
    lab.finish()
    assert len(lengths) > 3, "the text came at once"
    assert len(frames) > 3, "the chart of tokens per second did not move"
    for chart in ("speed", "memory", "kernels"):
        assert lab.page.locator(f"[data-chart={chart}] .main-svg").count(), chart


def test_compare_effective_difference(lab: Lab) -> None:
    lab.click("compare")
    head = lab.page.locator("[data-panel=compare] thead").inner_text()
    assert "baseline" in head
    assert "int4" in head
    lab.tab("Requested / effective")
    rows = lab.page.locator("[data-panel=effective]").inner_text()
    assert "int4" in rows
    assert "weights" in rows
    lab.tab("Text difference")
    assert "text" in lab.page.locator("[data-panel=difference]").inner_text().lower()


def test_export(lab: Lab) -> None:
    lab.click("export")
    panel = lab.page.locator("[data-panel=export]")
    panel.get_by_text("YAML", exact=True).click()
    lab.until(lambda: "int4" in panel.locator("pre").inner_text(), "no YAML")
    with lab.page.expect_download() as download:
        panel.get_by_text("Save report (HTML)").click()
    assert "Inference Workbench" in Path(download.value.path()).read_text("utf-8")


def test_cancel(lab: Lab) -> None:
    lab.length(1900)
    lab.run()
    lab.until(lambda: lab.state == "running", "not running")
    start = time.monotonic()
    lab.click("cancel")
    lab.until(lambda: lab.state == "cancelled", f"not cancelled: {lab.state}", 10)
    assert time.monotonic() - start < 5
    assert "ancelled" in lab.sentence
    lab.length(48)


def test_a_killed_engine_is_one_sentence_and_the_next_run_works(lab: Lab) -> None:
    lab.length(1900)
    for attempt in range(3):  # a run may end before the signal arrives
        lab.run()
        lab.until(lambda: lab.state == "running", f"not running: {lab.state}, {lab.sentence}")
        for pid in lab.engines():
            os.kill(pid, signal.SIGKILL)
        lab.until(lambda: lab.state != "running", f"still running: {lab.sentence}")
        if lab.state == "failed":
            break
        assert attempt < 2, f"nobody said that the engine died: {lab.state}, {lab.sentence}"
    assert lab.page.locator(".wb-status").get_attribute("data-level") == "error"
    said = lab.sentence
    assert "engine" in said
    assert "\n" not in said
    lab.length(24)
    lab.run()
    lab.finish()


def test_text_never_becomes_markup(lab: Lab) -> None:
    lab.run(EVIL)
    lab.finish()
    lab.tab("Runs")
    lab.tab("Text difference")
    assert "<script>window.owned=1</script>" in lab.text
    assert lab.page.locator(".wb script, .wb img, .wb a").count() == 0
    assert lab.page.evaluate("window.owned") is None


def test_a_bad_value_is_said_at_once_and_undone(lab: Lab) -> None:
    box = lab.page.locator("input[data-path='limits.max_new_tokens']")
    before = box.input_value()
    box.fill("-5")
    box.press("Enter")
    lab.until(lambda: "out of range" in lab.sentence, "no sentence")
    assert lab.page.locator("input[data-path='limits.max_new_tokens']").input_value() == before


def test_a_recorded_run_plays_again(lab: Lab) -> None:
    lab.tab("Runs")
    rows = lab.page.locator("[data-panel=runs] tbody tr", has_text="int4")
    rows.filter(has_text="done").last.get_by_text("Replay").click()
    lab.until(lambda: lab.state in ("replay", "running"), f"no replay: {lab.state}", 20)
    lab.finish()


def test_picture_and_no_overflow(lab: Lab) -> None:
    """At 1280 pixels nothing is wider than its place; the picture is taken of a finished run."""
    lab.choose("decoding", "draft_model")
    lab.length(128)
    lab.run(zoo.prompts("code")[0].text)
    lab.finish()
    lab.tab("Compare")
    lab.page.locator("[data-chart=speed] .main-svg").first.wait_for()
    wide = lab.page.evaluate("""() => [...document.querySelectorAll('.wb *')].filter((e) =>
        e.scrollWidth > e.clientWidth + 2 && getComputedStyle(e).overflowX === 'visible'
        && e.clientWidth > 0 && !e.closest('svg')).map((e) => e.className || e.tagName)""")
    assert wide == []
    folder = os.environ.get("WORKBENCH_SCREENSHOTS")
    if folder:
        lab.page.set_viewport_size({"width": 1280, "height": 1500})
        lab.page.evaluate("""() => { for (let e = document.querySelector('.wb'); e; e = e.parentElement)
            e.scrollTop = 0; }""")
        time.sleep(1.5)
        lab.page.screenshot(path=str(Path(folder) / "notebook.png"))


def test_nobody_else_was_asked(lab: Lab) -> None:
    """Runs last: the whole session above went by without one request to another host."""
    assert lab.outside.asked == []
    assert lab.errors == []
