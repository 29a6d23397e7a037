"""The speculation lab's panels on real runs of the bundled pair, while they go on and afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench import events as ev
from workbench.panels import panel, plain
from workbench.session import Session
from workbench.session import open as open_session
from workbench.store import Run, Store


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with open_session("bundled", store=Store(tmp_path_factory.mktemp("runs")), **{
            "limits.max_new_tokens": 48, "telemetry.preset": "off", "telemetry.power": False}) as found:
        yield found


@pytest.fixture(scope="module")
def drafted(session: Session) -> Run:
    return session.run("def count_words(text):\n    counts = {}\n", wait=True,
                       decoding="token_recycling(fallback=false)")  # what is drafted must not be a clock's


@pytest.fixture(scope="module")
def plainly(session: Session) -> Run:
    return session.run("def count_words(text):\n    counts = {}\n", decoding="plain", wait=True)


def test_the_ribbon_is_the_text(drafted: Run) -> None:
    """Kept and own tokens of all steps, in order, are exactly what the run wrote."""
    from workbench.analysis.speculation import ribbon

    steps = ribbon(list(drafted.events))
    assert "".join(s.text for s in steps) == drafted.text
    assert any(c.state == "accepted" for s in steps for c in s.cells)
    assert any(c.state == "rejected" for s in steps for c in s.cells)


def test_the_ribbon_panel_draws_and_counts(drafted: Run, plainly: Run) -> None:
    content = panel("speculation").content(drafted, plainly)
    assert not content.empty
    [figure] = content.figures
    heat = figure["data"][0]
    assert {v for line in heat["z"] for v in line if v is not None} >= {1, 2, 3}
    mine, theirs = content.tables[0].rows
    assert mine[2] > mine[3] > 0
    assert mine[6] > 1.0 == theirs[6]
    assert any("that of plain decoding" in s for s in content.sentences)
    plain(content)


def test_plain_runs_are_told_what_to_do(plainly: Run) -> None:
    assert "prompt_lookup" in panel("speculation").content(plainly).empty


def test_acceptance_by_place_adds_up(drafted: Run, plainly: Run) -> None:
    content = panel("speculation_acceptance").content(drafted, plainly)
    depths, kinds = content.tables
    found = [e for e in drafted.events if isinstance(e, ev.Draft)]
    assert sum(row[1] for row in depths.rows) == sum(d.drafted for d in found)
    kept = [row[4] for row in depths.rows]
    assert kept == sorted(kept, reverse=True)  # deeper places are kept less often
    assert [row[0] for row in kinds.rows] == ["code"]
    assert "The first drafted token was right" in content.sentences[0]
    plain(content)


def test_costs_split_and_break_even(drafted: Run, plainly: Run) -> None:
    content = panel("speculation_cost").content(drafted, plainly)
    assert not content.empty, content.empty
    split, costs = content.tables
    mine, theirs = split.rows
    assert sum(mine[1:5]) == pytest.approx(mine[5])
    assert mine[2] > 0 == theirs[2]  # only drafts are verified
    rate = drafted.metrics["tok_per_s"].value
    assert mine[5] == pytest.approx(1e3 / rate, rel=0.02)  # the same window as the run's speed
    assert 1 in [row[0] for row in costs.rows]
    assert [f["layout"]["title"]["text"] for f in content.figures][1].endswith("(estimated)")
    assert any("estimated" in s for s in content.sentences)
    plain(content)


def test_dear_drafts_are_told_to_stop(session: Session) -> None:
    """A long chain of a draft that is seldom right on random text does not pay; the advice is one click."""
    from workbench.analysis.speculation_cost import break_even

    prompt = "xq zzv 81 kfj 03 plw"
    run = session.run(prompt, decoding="draft_model(gamma=16,fallback=false)", wait=True)
    base = session.run(prompt, decoding="plain", wait=True)
    content = panel("speculation_cost").content(run, base)
    found = break_even(list(run.events), list(base.events))
    assert found is not None
    labels = [a.label for a in content.actions]
    if found.here < 1.0:
        assert "Decode plainly" in labels
    shorter = [a for a in content.actions if a.label.startswith("Draft ") and "instead of 16" in a.label]
    assert shorter, labels
    [(path, length)] = shorter[0].changes.items()
    assert path == "decoding.gamma"
    assert length < 16
    tried = session.attempt(shorter[0], run)
    assert tried.wait(60)
    assert tried.requested.decoding.gamma == length


def test_a_live_run_is_drawn(session: Session) -> None:
    """Panels are built from whatever events there are."""
    run = session.run("The sea was", decoding="token_recycling", **{"limits.max_new_tokens": 200})
    deadline = time.monotonic() + 60
    while not any(isinstance(e, ev.Draft) for e in run.events):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    for key in ("speculation", "speculation_acceptance", "speculation_cost"):
        plain(panel(key).content(run))
    assert panel("speculation").content(run).figures
    run.wait(60)


def test_every_drafting_panel_tells_plain_runs_what_to_do(plainly: Run) -> None:
    for key in ("speculation_acceptance", "speculation_cost"):
        assert "decoding=" in panel(key).content(plainly).empty


def test_what_a_search_found_is_one_click(drafted: Run, plainly: Run, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.analysis import speculation_found

    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    before = panel("speculation_cost").content(drafted, plainly)
    assert any("bench draft" in s for s in before.sentences)
    place = {"decoding": "prompt_lookup(span=4)", "ratio": 1.75, "ratio_low": 1.5, "ratio_high": 2.0,
             "per_forward": 2.5, "rounds": 3, "runs": 9}
    speculation_found.remember(drafted.requested, {"places": [place]})
    after = panel("speculation_cost").content(drafted, plainly)
    assert after.tables[-1].rows == [["prompt_lookup(span=4)", 1.75, 1.5, 2.0, 2.5, 3]]
    assert any("1.75 times plain" in s for s in after.sentences)
    assert after.actions[0].changes == {"decoding": "prompt_lookup(span=4)"}
    place["decoding"] = "token_recycling"  # what ran already
    speculation_found.remember(drafted.requested, {"places": [place]})
    again = panel("speculation_cost").content(drafted, plainly)
    assert not any(a.label.startswith("Use") for a in again.actions)


def test_a_search_through_the_sessions_own_engine(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads no second model, leaves no runs behind, and its answer can be applied as it is."""
    from workbench import speculation
    from workbench.speculation import searching

    monkeypatch.setattr(searching, "_NEW", 8)
    before = {r.id for r in session.store.runs()}
    found = speculation.search(session, ["def f(x):\n"], remember=False,
                               methods=["prompt_lookup", "token_recycling(nodes=6)"])
    assert {p.decoding for p in found.places} == {"prompt_lookup", "token_recycling(nodes=6)"}
    assert all(p.summary.same == p.summary.runs for p in found.places)
    assert {r.id for r in session.store.runs()} == before
    chosen = session.settings.with_(found.changes).decoding
    assert chosen.name() in ("plain", "prompt_lookup", "token_recycling")


@pytest.mark.parametrize(("key", "redrawn"), [("speculation", True), ("canvas", True), ("memory", False)])
def test_what_streams_is_drawn_again_soon(key: str, redrawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a run goes on the ribbon and the canvas follow it; panels about sums can wait."""
    from types import SimpleNamespace

    from workbench.settings import Settings
    from workbench.widgets import panels as drawn

    run = Store().record(Settings(), "hi").run
    clock = [100.0]
    monkeypatch.setattr(drawn, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    opened = drawn.Opened()
    opened.open(key)
    assert opened.due(run, None)
    opened.draw(run, None)
    assert not opened.due(run, None)
    clock[0] += 0.6
    assert opened.due(run, None) is redrawn
    clock[0] += 1.5
    assert opened.due(run, None)
