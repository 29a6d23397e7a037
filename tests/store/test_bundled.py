"""The runs that come with the package: there, small, dated, and replayed without an engine."""

from __future__ import annotations

import math

import pytest

import workbench as wb
from workbench.cli import run_command
from workbench.errors import StoreError
from workbench.events import Kernel, Overhead, Phase, Token
from workbench.panels import panels
from workbench.report import html
from workbench.store import replay
from workbench.store.bundled import bundled_names, provenance

NAMES = ["bf16", "int4_draft", "vision_transformer"]


def test_they_are_there_whole_and_small() -> None:
    assert bundled_names() == NAMES
    assert len(wb.recorded()) == 3
    for name in NAMES:
        run = wb.recorded(name)
        assert run.status == "done"
        assert sum(p.stat().st_size for p in run.path.iterdir()) < 1_000_000
        assert len(run.events) == run.record.event_count
        assert any(isinstance(e, Kernel) for e in run.events)
        said = provenance(run)
        assert run.environment["machine"]["cpu"] in said
        assert "recorded on 20" in said
        assert "no GPU" in said


def test_no_path_or_user_of_the_machine_is_in_them() -> None:
    for name in NAMES:
        text = (wb.recorded(name).path / "run.json").read_text()
        assert "/work" not in text
        assert "/root" not in text
        assert "/tmp" not in text


def test_they_have_what_the_tutorials_show() -> None:
    text = wb.recorded("int4_draft")
    assert [e for e in text.events if isinstance(e, Overhead)]
    assert any(e.source == "draft" for e in text.events if isinstance(e, Token))
    assert text.metrics["perplexity"].value
    assert text.metrics["kl_mean"].value > wb.recorded("bf16").metrics["kl_mean"].value - 1e-9
    assert [e for e in wb.recorded("vision_transformer").events
            if isinstance(e, Phase) and e.phase == "forward"]


@pytest.mark.parametrize("name", NAMES)
def test_replayed_in_time_they_give_the_same_run(name: str) -> None:
    run = wb.recorded(name)
    played = replay(run, speed=math.inf)
    assert played.wait(10)
    assert played.text == run.text
    assert len(played.events) == len(run.events)


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_and_the_report_take_them(name: str) -> None:
    run, base = wb.recorded(name), wb.recorded("bf16")
    for p in panels():
        content = p.content(run, base)
        assert "could not be drawn" not in content.empty, (p.key, content.empty)
    assert run.label in html([run])


def test_the_command_lists_and_plays_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["replay", "--bundled"]) == 0
    listed = capsys.readouterr().out
    assert all(n in listed for n in NAMES)
    assert run_command(["replay", "--bundled", "bf16", "--speed", "0"]) == 0
    assert wb.recorded("bf16").text.strip() in capsys.readouterr().out
    assert run_command(["replay"]) == 2
    assert run_command(["replay", "--bundled", "bf17"]) == 1
    assert "bf16" in capsys.readouterr().err


def test_an_unknown_name_lists_the_others() -> None:
    with pytest.raises(StoreError, match="int4_draft"):
        wb.recorded("int4")
