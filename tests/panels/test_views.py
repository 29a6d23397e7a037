"""Every view draws every panel, escapes its text and carries out its offers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.panels.evil import EVIL, PANEL
from tests.synthetic import plain
from workbench.settings import Settings
from workbench.store import Run, Store


@pytest.fixture(autouse=True)
def only_this_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.panels import base

    monkeypatch.setattr(base, "panels", lambda: [PANEL])
    for name in ("workbench.panels", "workbench.report.content", "workbench.apps.parts_panels",
                 "workbench.widgets.panels"):
        monkeypatch.setattr(f"{name}.panels", lambda: [PANEL])


@pytest.fixture
def run() -> Run:
    writer = Store().record(Settings(), "a prompt", "a label")
    writer.add(plain(6))
    return writer.finish()


def test_the_report_holds_the_answers_and_text_stays_text(run: Run) -> None:
    from workbench.report import html

    page = html([run])
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    assert PANEL.question in body
    assert "&lt;script&gt;window.owned=1" in body
    assert "<script>window.owned" not in page
    assert "<img src=x" not in page
    name = re.search(r'data-figure="(answer-[^"]+-evil-0)"', body)
    assert name
    assert f'id="data-{name[1]}"' in page


def test_the_report_leaves_out_a_figure_that_is_too_large(
        run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.report import html, page

    monkeypatch.setattr(page, "_FIGURE_CHARACTERS", 10)
    body = re.sub(r"<(script|style)\b.*?</\1>", "", html([run]), flags=re.S)
    assert PANEL.question in body
    assert "evil-0" not in body


def test_the_command_line_says_it(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from workbench.cli import run_command

    assert run_command(["explain", run.id]) == 0
    said = capsys.readouterr().out
    assert "window.owned=1" in said
    assert "--set weights=int8" in said
    assert run_command(["explain", run.id, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["answers"]["evil"]
    assert answer["tables"][0]["rows"][1] == ["b", "–"]
    assert run_command(["explain", run.id, "--question", "nonsense"]) == 1
    assert "no panel 'nonsense'" in capsys.readouterr().err


def test_the_dashboard_draws_what_is_in_front_only(run: Run) -> None:
    pytest.importorskip("panel")
    from workbench.apps.parts_panels import Questions

    tried: list[Any] = []
    part = Questions(tried.append)
    part.draw(run, None)
    assert not part._answer.objects
    part.shown = True
    part.draw(run, None)
    text = str(part._answer.objects[0].object)
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    first = part._answer.objects
    part.draw(run, None)
    assert part._answer.objects is first or part._answer.objects == first
    offer = part._answer.objects[1][0]
    offer.clicks += 1
    assert [a.label for a in tried] == ["fewer bits"]
    picture = part._answer.objects[3]  # what Panel sends of a click: rows' customdata is not in it
    for x, y in ((0, "b"), (1, "a"), (1, "b"), (7, "b")):
        picture.click_data = {"points": [{"curveNumber": 0, "pointNumber": [0, 0], "x": x, "y": y}]}
    assert [a.label for a in tried] == ["fewer bits", "more bits"]


def test_the_notebook_opens_a_panel_and_tries_its_offer(tiny_config: Path) -> None:
    pytest.importorskip("anywidget")
    import workbench as wb
    from workbench.widgets import bench

    with wb.open(tiny_config, weights="random", inline=True, warm=False, max_new_tokens=3,
                 preset="off", power=False) as session:
        view = bench.view(session)
        view._message(None, {"do": "panel", "id": 1, "key": "evil"}, None)
        assert "Run something first" in view.widget.panel["empty"]
        first = session.run("def f(", wait=True)
        view.look()
        assert view.widget.panel["sentences"] == [EVIL]
        view._message(None, {"do": "try", "id": 2, "key": "evil", "index": 0}, None)
        second = session.runs[-1]
        second.wait(60)
        assert second.id != first.id
        assert session.settings.weights.name() == "int8"
        assert second.prompts == first.prompts
        view._message(None, {"do": "try", "id": 4, "key": "evil", "index": 1}, None)  # the picture's
        session.runs[-1].wait(60)
        assert session.settings.weights.name() == "fp32"
        second = session.runs[-1]
        view._message(None, {"do": "try", "id": 3, "key": "evil", "index": 7}, None)
        assert session.runs[-1] is second
        view.close()
