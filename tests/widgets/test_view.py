"""Both ways without a browser: set the session, read the widget; send a message, read the session."""

from __future__ import annotations

import gc
import gzip
import time
import weakref
from typing import Any

import pytest

from workbench.widgets import bench, pulse

EVIL = "<script>owned=1</script><img src=x onerror=owned=1> $\\alpha$ [x](javascript:1)"


def ask(view: Any, verb: str, **more: Any) -> None:
    view._message(None, {"do": verb, "id": 1, **more}, None)


def control(view: Any, path: str) -> dict[str, Any]:
    return next(c for g in view.widget.controls for c in g["controls"] if c["path"] == path)


def test_controls_follow_the_session_and_the_session_follows_the_controls(shown: Any) -> None:
    view, _ = shown
    assert control(view, "weights")["value"] == "bf16"
    assert all(c["help"] for g in view.widget.controls for c in g["controls"])
    ask(view, "set", path="weights", value="int4")
    assert view.session.settings.weights.name() == "int4"
    assert control(view, "weights.group")["value"] == view.session.settings.weights.group
    ask(view, "set", path="limits.max_new_tokens", value=7)
    assert view.session.settings.limits.max_new_tokens == 7


def test_what_opening_a_model_may_run_is_not_a_click(shown: Any) -> None:
    view, sent = shown
    paths = {c["path"] for g in view.widget.controls for c in g["controls"]}
    assert "model.trust_remote_code" not in paths
    assert "model.allow_pickle" not in paths
    ask(view, "set", path="model.trust_remote_code", value=True)
    assert not view.session.settings.model.trust_remote_code
    assert sent.of("say")[0]["level"] == "error"


@pytest.mark.parametrize(("path", "value"), [
    ("weights", "int5"), ("limits.max_new_tokens", -3), ("limits.max_new_tokens", "x"),
    ("nonsense", 1), ("", None)])
def test_a_bad_value_is_one_sentence_at_its_control(shown: Any, path: str, value: object) -> None:
    view, sent = shown
    before = view.session.settings
    ask(view, "set", path=path, value=value)
    said = sent.of("say")
    assert len(said) == 1
    assert "\n" not in said[0]["text"]
    assert said[0]["path"] == path
    assert view.session.settings == before
    assert sent[-1]["kind"] == "done"


def test_preview_moves_the_forecast_and_sets_nothing(shown: Any) -> None:
    view, _ = shown
    before = dict(view.widget.forecast)
    assert before["rows"][0]["range"]
    start = time.perf_counter()
    ask(view, "preview", path="limits.batch", value=16)
    assert time.perf_counter() - start < 1.0  # 150 ms on a quiet machine; see benchmarks
    assert view.widget.forecast != before
    assert view.session.settings.limits.batch == 1


def test_a_run_streams_into_the_widget(shown: Any, wait_until: Any) -> None:
    view, sent = shown
    ask(view, "run", prompt="def add(a, b):")
    assert view.widget.status["busy"]
    wait_until(lambda: not view.widget.status["busy"])
    run = view.session.runs[-1]
    assert run.status == "done"
    text = "".join(t for _, t, _ in view.widget.text["sequences"][0])
    assert text == run.text
    wait_until(lambda: view.widget.figure_speed["data"])
    wait_until(lambda: view.widget.history[0]["id"] == run.id)
    wait_until(lambda: view.widget.history[0]["pinned"])  # the first finished run is the baseline
    assert view.widget.effective
    assert not sent.of("say")


def test_cancel_pin_compare_difference(shown: Any, wait_until: Any) -> None:
    view, _ = shown
    first = view.session.run("one two three", wait=True)
    wait_until(lambda: not view.widget.status["busy"])
    ask(view, "set", path="weights", value="int8")
    ask(view, "run", prompt="one two three")
    wait_until(lambda: len(view.widget.comparison["runs"]) == 2)
    head = view.widget.comparison["runs"]
    assert [r["baseline"] for r in head] == [True, False]
    assert head[0]["id"] == first.id
    wait_until(lambda: view.widget.figure_comparison.get("data"))  # set after the table
    assert view.widget.difference["sentence"]
    second = view.session.runs[-1]
    ask(view, "pin", run=second.id)
    assert view.session.pinned is second
    ask(view, "pin", run=second.id)
    assert view.session.pinned is None
    ask(view, "set", path="limits.max_new_tokens", value=6000)
    ask(view, "run", prompt="one")
    ask(view, "cancel")
    wait_until(lambda: not view.widget.status["busy"])
    assert view.session.runs[-1].status == "cancelled"
    assert view.widget.status["level"] == "notice"


def test_an_empty_prompt_is_a_sentence(shown: Any) -> None:
    view, sent = shown
    ask(view, "run", prompt="")
    assert "prompt" in sent.of("say")[0]["text"]
    assert not view.session.runs


def test_replay_shows_a_recorded_run_again(shown: Any, wait_until: Any) -> None:
    view, _ = shown
    run = view.session.run("abc", wait=True)
    text = run.text
    wait_until(lambda: view.widget.history)
    ask(view, "replay", run=run.id)
    wait_until(lambda: not view.widget.status["busy"])
    assert "".join(t for _, t, _ in view.widget.text["sequences"][0]) == text


@pytest.mark.parametrize("to", ["python", "yaml", "json", "vllm", "llama-server"])
def test_export(shown: Any, to: str) -> None:
    view, sent = shown
    ask(view, "export", format=to, prompt="it's \"quoted\"")
    assert sent.of("export")[0]["text"].strip()


def test_report_travels_as_a_file(shown: Any) -> None:
    view, sent = shown
    ask(view, "report")
    assert "press Run" in sent.of("say")[0]["text"]
    view.session.run("abc", wait=True)
    ask(view, "report")
    page = sent.of("file")[0]["buffers"][0]
    assert page.startswith(b"<!doctype html>") or page.startswith(b"<!DOCTYPE html>")


def test_plotly_comes_from_the_installation(shown: Any) -> None:
    view, sent = shown
    ask(view, "plotly")
    assert b"plotly.js" in gzip.decompress(sent.of("plotly")[0]["buffers"][0])[:200]


@pytest.mark.parametrize("content", [None, "run", {"do": "close"}, {"do": "__init__"}, {}, [1]])
def test_other_messages_do_nothing(shown: Any, content: object) -> None:
    view, sent = shown
    view._message(None, content, None)
    assert not sent
    assert not view.session.runs


def test_static_form_holds_everything_escaped(shown: Any) -> None:
    view, _ = shown
    view.session.run(EVIL, label=EVIL, wait=True)
    data = bench.static(view.session)
    page = data["text/html"]
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "http://" not in page
    assert "https://" not in page
    for panel in ("Forecast", "Output", "Tokens per second", "Memory per tier", "Comparison",
                  "Requested and effective", "As code"):
        assert panel in page, panel
    assert "<svg" in page
    outside_code = page.split("<style>")[0] + page.split("</style>")[1]
    assert "$\\alpha$" not in outside_code.replace(
        outside_code[outside_code.find('<pre class="wb-text">'):outside_code.rfind("</pre>")], "")


def test_evaluating_again_shows_the_same_widget(shown: Any) -> None:
    view, _ = shown
    for _ in range(5):
        assert bench.view(view.session) is view
    assert pulse.watched() == 1


def test_a_closed_widget_is_made_anew(shown: Any) -> None:
    view, _ = shown
    view.close()
    again = bench.view(view.session)
    assert again is not view
    assert pulse.watched() == 1
    again.close()
    assert pulse.watched() == 0


def test_a_view_does_not_keep_its_session(tiny_config: Any) -> None:
    import workbench as wb

    session = wb.open(tiny_config, weights="random", inline=True, warm=False)
    view = bench.view(session)
    gone = weakref.ref(session)
    session.close()
    del session
    gc.collect()
    assert gone() is None
    view.tick()
    assert pulse.watched() == 0


def test_a_chart_that_fails_does_not_stop_the_view(
        shown: Any, monkeypatch: pytest.MonkeyPatch, wait_until: Any) -> None:
    view, sent = shown

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(view.figures, "update", broken)
    view._version = ()
    view.tick()
    assert "could not be drawn" in sent.of("say")[0]["text"]
    monkeypatch.undo()
