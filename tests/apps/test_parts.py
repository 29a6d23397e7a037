"""What the page shows, without a browser: escaping, controls both ways, frames, texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.apps.conftest import MakeHub
from workbench.apps import parts_compare
from workbench.apps.controls import Controls, help_line, make_widget
from workbench.apps.frames import Frames
from workbench.apps.markup import join, sentence, table, tag
from workbench.apps.parts_output import Output, Stream
from workbench.apps.parts_prompt import Prompt
from workbench.apps.parts_runs import Runs, line
from workbench.apps.parts_tiles import change, tile
from workbench.apps.policy import NEVER, Policy
from workbench.errors import SettingsError
from workbench.events import Metric, Token
from workbench.machine import this_machine
from workbench.settings import ControlView, Settings
from workbench.shape import from_file
from workbench.store import Store
from workbench.store.run import Run

EVIL = "<script>window.owned=1</script><img src=x onerror='window.owned=1'>\"&"


def recorded(root: Path, text: str = EVIL, label: str = EVIL, prompt: str = EVIL,
             status: str = "done", error: str = "") -> Run:
    writer = Store(root).record(Settings(), prompt, label=label)
    writer.add([Token(run=writer.run.id, index=i, id=i, text=c, t_s=0.1 * i, step=i,
                      source=("plain", "draft", "bonus")[i % 3]) for i, c in enumerate(text)])
    writer.finish(status=status, error=error)
    return writer.run


def test_markup_escapes_children_and_attributes() -> None:
    assert str(tag("p", EVIL, title=EVIL)).count("<") == 2
    assert "<script" not in str(join([EVIL, tag("b", EVIL), None]))
    assert "<script" not in str(table([EVIL], [[EVIL, EVIL]]))
    assert "<img" not in str(sentence(EVIL, "error"))
    assert str(tag("i", tag("b", "x"))) == "<i><b>x</b></i>"


def test_nothing_untrusted_becomes_markup(tmp_path: Path) -> None:
    run = recorded(tmp_path, error=EVIL, status="failed")
    other = recorded(tmp_path, text="other", prompt=EVIL)
    output = Output()
    output.feed(run.events)
    output.draw(run, EVIL)
    runs = Runs(lambda verb, run_id: None)
    runs.draw([run, other], shown=run, pinned=other, compared=set())
    effective = {EVIL: {"requested": EVIL, "effective": EVIL, "honoured": False, "reason": EVIL}}
    run.record.effective = effective
    metric = Metric(name="tok_per_s", value=None, unit="tok/s", reason=EVIL)
    view = ControlView(EVIL, EVIL, "weights", "choice", "a", "a", EVIL, ("a",),
                       unavailable={EVIL: EVIL})
    shown = [output._head.object, output._body.object, str(line(run, True, True)),
             *(row._text.object for row in runs._rows.values()),
             str(parts_compare.comparison([run, other], other)),
             str(parts_compare.effective(run)), str(parts_compare.difference(run, other)),
             str(tile("tok_per_s", metric, None)), str(help_line(view, EVIL))]
    for html in shown:
        assert "<script" not in html
        assert "<img" not in html
    assert "&lt;script&gt;" in output._body.object


def test_the_stream_joins_neighbours_and_keeps_sequences_apart() -> None:
    stream = Stream()
    assert stream.feed([Token(index=0, id=1, text="a", source="plain"),
                        Token(index=1, id=2, text="b", source="plain"),
                        Token(index=2, id=3, text="c", source="draft"),
                        Token(index=0, id=4, text="z", sequence=1)])
    assert not stream.feed([])
    assert stream.text(0) == "abc"
    assert stream.text(1) == "z"
    assert [source for source, _ in stream.pieces[0]] == ["plain", "draft"]
    html = str(stream.markup("p", caret=False))
    assert html.count('class="text"') == 2


def test_a_very_long_text_sends_only_its_end() -> None:
    stream = Stream()
    stream.feed([Token(index=i, id=i, text="word ", source="plain") for i in range(20_000)])
    assert len(str(stream.markup("p", caret=True))) < 30_000


def views(settings: Settings, tiny_config: Path) -> list[ControlView]:
    return settings.controls(from_file(tiny_config), this_machine())


def test_every_control_has_a_widget_with_its_value_and_one_help_line(tiny_config: Path) -> None:
    controls = Controls(lambda path, value: None, Policy())
    found = views(Settings(), tiny_config)
    controls.show(found)
    for view in found:
        if view.path in (*NEVER, "model.weights"):
            assert view.path not in controls._widgets
            continue
        assert controls._widgets[view.path].value == view.value
        assert view.help in str(controls._helps[view.path].object).replace("&#39;", "'")


def test_both_ways(tiny_config: Path) -> None:
    """Move a widget, read the settings; change the settings, read the widget."""
    state = {"settings": Settings()}

    def change_it(path: str, value: Any) -> None:
        state["settings"] = state["settings"].with_({path: value})
        controls.show(views(state["settings"], tiny_config))

    controls = Controls(change_it, Policy())
    controls.show(views(state["settings"], tiny_config))
    controls._widgets["limits.max_new_tokens"].value = 64
    assert state["settings"].limits.max_new_tokens == 64
    controls._widgets["decoding"].value = "prompt_lookup"
    assert state["settings"].decoding.name() == "prompt_lookup"
    controls._widgets["decoding.span"].value = 7
    assert state["settings"].decoding.span == 7  # type: ignore[attr-defined]
    controls.show(views(Settings(), tiny_config))
    assert controls._widgets["decoding"].value == "plain"
    assert controls._widgets["limits.max_new_tokens"].value == 128
    shown = [w for card in controls.layout.objects for w in card.objects]
    assert controls._widgets["decoding.span"] not in shown


def test_a_refused_value_comes_back_with_its_sentence(tiny_config: Path) -> None:
    def refuse(path: str, value: Any) -> None:
        raise SettingsError("no, because of <b>this</b>")

    controls = Controls(refuse, Policy())
    controls.show(views(Settings(), tiny_config))
    controls._widgets["limits.batch"].value = 4
    assert controls._widgets["limits.batch"].value == 1
    assert "because of &lt;b&gt;this" in controls._helps["limits.batch"].object


def test_what_cannot_work_here_is_disabled_and_says_why() -> None:
    view = ControlView("weights", "weights", "weights", "choice", "a", "a", "help", ("a", "b"),
                       unavailable={"b": "b needs a CUDA GPU and this machine has none"})
    assert make_widget(view, Policy()).disabled_options == ["b"]
    assert "needs a CUDA GPU" in str(help_line(view))


@pytest.mark.parametrize("value", [1, 4096, 1_000_000])
def test_a_slider_takes_the_whole_range(value: int) -> None:
    view = ControlView("limits.n", "n", "limits", "integer", value, 128, "", low=1, high=1_000_000,
                       soft=(16, 512))
    assert make_widget(view, Policy()).value == value


def test_a_busy_browser_is_not_sent_more() -> None:
    frames = Frames()
    assert frames.ready(0.0)
    frames.sent(0.0)
    assert not frames.ready(0.1)
    assert not frames.ready(3.9)
    assert frames.skipped == 2
    frames._painted.value = frames._sent.value
    assert frames.ready(0.2)
    frames.sent(1.0)
    assert frames.ready(6.0)  # a lost acknowledgement is forgiven
    assert frames.drawn == 2


@pytest.mark.parametrize(("mine", "base", "cls"), [
    (200.0, 100.0, "up"), (50.0, 100.0, "down"), (100.2, 100.0, "same")])
def test_a_change_is_coloured_by_its_meaning(mine: float, base: float, cls: str) -> None:
    a, b = (Metric(name="tok_per_s", value=v, unit="tok/s") for v in (mine, base))
    assert f'class="{cls}"' in str(change("tok_per_s", a, b))
    a, b = (Metric(name="ttft_s", value=v, unit="s") for v in (base, mine))
    assert f'class="{cls}"' in str(change("ttft_s", a, b))


def test_what_is_said_of_a_figure_stands_under_it() -> None:
    metric = Metric(name="tok_per_s", value=706.0, unit="tok/s", quality="estimated",
                    badges="disturbed, ×1.3 estimated")
    shown = str(tile("tok_per_s", metric, None))
    assert '<div class="v">706 tok/s</div>' in shown
    assert "estimated · disturbed, ×1.3 estimated" in shown


def test_texts_part_where_they_part(tmp_path: Path) -> None:
    a, b = recorded(tmp_path, "one two three", "a"), recorded(tmp_path, "one two four", "b")
    html = str(parts_compare.difference(b, a))
    assert "first 8 characters" in html
    assert "<mark>four</mark>" in html
    assert "<mark>three</mark>" in html
    assert "identical" in str(parts_compare.difference(recorded(tmp_path, "one two three"), a))
    c = recorded(tmp_path, "one", prompt="another")
    assert "different prompts" in str(parts_compare.difference(c, a))


def test_the_prompt_choice_follows_the_text() -> None:
    prompt = Prompt(run=lambda: None, cancel=lambda: None, pin=lambda: None,
                    compare=lambda: None, longest=1000)
    first = prompt.choice.value
    prompt.text.value = "my own words"
    assert prompt.choice.value == "your own"
    prompt.choice.value = first
    assert prompt.text.value == prompt._bundled[first]


def test_a_whole_view_runs_shows_and_compares(make_hub: MakeHub) -> None:
    from workbench.apps.view import View

    hub = make_hub()
    workspace = hub.enter("ada")
    view = View(workspace, hub)
    for prompt in ("first", "first"):
        view.prompt.text.value = prompt
        view._run()
        assert view.shown is not None
        assert view.shown.wait(10)
        workspace.session._dispatcher.position  # noqa: B018
    view._version = (-1, False)
    view.frames._painted.value = view.frames._sent.value
    import time

    end = time.monotonic() + 5
    while workspace.session.pinned is None and time.monotonic() < end:
        time.sleep(0.02)
    view.tick()
    assert "window.owned" in view.output._body.object
    assert "<script" not in view.output._body.object
    assert "tok/s" in view.tiles.layout.object
    assert "baseline" in view._comparison.object
    assert "bf16 &lt;b&gt;" in view._effective.object
    assert "identical" in view._difference.object
    assert "runs=" in view.prompt.report.object
    view.prompt.text.value = ""
    view._run()
    assert "empty" in view.prompt.message.object


def test_a_forecast_is_judged_by_what_it_said_before_the_run(tiny_config: Path) -> None:
    from workbench.apps.parts_forecast import card
    from workbench.forecast import forecast

    now = forecast(Settings(), from_file(tiny_config), this_machine())
    assert now.tpot_s.value
    metrics = {"tpot_s": Metric(name="tpot_s", value=2 * now.tpot_s.value, unit="s")}
    html = str(card(now, metrics, promised=now))
    assert "was forecast, +100 %" in html
    assert "RAM" in html
    assert "was forecast" not in str(card(now, metrics))
    assert "measured" not in str(card(now, {}))
