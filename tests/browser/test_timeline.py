"""The timeline in a real browser: the script that ships, fed by the widget's own Python side."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

import workbench as wb
from workbench.widgets.timeline import MAX_MARKS, Timeline

_MODEL = """
import { default as widget } from "data:text/javascript;base64,%s";
const heard = [];
const model = { get: (k) => window.state[k], on: (what, f) => heard.push(f),
  send: async (content) => {
    const [head, body] = await window.answer(JSON.stringify(content));
    const bytes = Uint8Array.from(atob(body), (c) => c.charCodeAt(0));
    heard.forEach((f) => f(JSON.parse(head), [new DataView(bytes.buffer)]));
  } };
widget.render({ model, el: document.getElementById("here") });
"""


@pytest.fixture
def trace(tmp_path: Path) -> Any:
    rows = [
        {
            "ph": "X",
            "cat": "kernel",
            "name": f"kernel {n % 5} <b>",
            "pid": n % 2,
            "tid": 7,
            "ts": 1e15 + 10.0 * n,
            "dur": 7.0,
        }
        for n in range(60_000)
    ]
    path = tmp_path / "big.json"
    path.write_text(json.dumps({"traceEvents": rows}))
    return wb.trace(path)


def test_marks_stay_few_and_lose_no_event(trace: Any) -> None:
    widget = Timeline(trace)
    names, packed = widget.marks(0.0, widget.span, 1200)
    assert len(packed) <= 20 * MAX_MARKS
    assert len(names) <= 5
    close = widget.marks(100.0, 200.0, 1200)[1]
    assert 9 <= len(close) / 20 <= 12


def test_draws_zooms_and_moves(chromium: Any, trace: Any) -> None:
    widget = Timeline(trace)
    asked: list[dict[str, Any]] = []

    def answer(text: str) -> list[str]:
        content = json.loads(text)
        asked.append(content)
        sent: list[Any] = []
        widget.send = lambda head, buffers: sent.append((head, buffers[0]))  # type: ignore[method-assign]
        widget._message(None, content, [])
        head, body = sent[0]
        return [json.dumps(head), base64.b64encode(body).decode()]

    page = chromium.new_page(viewport={"width": 1100, "height": 400})
    errors: list[str] = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.expose_function("answer", answer)
    page.set_content('<div id="here"></div>')
    page.evaluate(
        "state => { window.state = state; }", {"lanes": widget.lanes, "span": widget.span, "title": "t"}
    )
    source = base64.b64encode(
        Timeline._esm.encode()
        if isinstance(Timeline._esm, str)
        else Path(str(Timeline._esm)).read_bytes()
    ).decode()
    page.add_script_tag(content=_MODEL % source, type="module")
    page.wait_for_function("() => +document.querySelector('canvas').dataset.marks > 0")
    painted = """() => { const c = document.querySelector('canvas');
      const d = c.getContext('2d').getImageData(300, 24, c.width - 320, 8).data;
      let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"""
    assert page.evaluate(painted) > 1000
    whole = asked[-1]["end"] - asked[-1]["start"]
    page.focus("canvas")
    for _ in range(20):
        page.keyboard.press("+")
    page.wait_for_timeout(300)
    assert asked[-1]["end"] - asked[-1]["start"] < whole / 100
    before = asked[-1]["start"]
    box = page.locator("canvas").bounding_box()
    page.mouse.move(box["x"] + 600, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + 30)
    page.mouse.up()
    page.wait_for_timeout(300)
    assert asked[-1]["start"] > before
    page.keyboard.press("0")
    page.wait_for_timeout(300)
    assert asked[-1]["end"] - asked[-1]["start"] == pytest.approx(whole, rel=0.1)
    assert not errors
    page.close()
