"""The session over a real engine and a random model: what every view relies on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import workbench as wb
from workbench.errors import ModelError, SettingsError, WorkbenchError
from workbench.events import RunEnded, Token
from workbench.session import Session
from workbench.store import Store

#: Long enough to be interrupted: the tiny model's positions allow it.
LONG = 6000


@pytest.fixture(scope="module")
def session(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One engine for the whole file; its store outlives each test's home."""
    store = Store(tmp_path_factory.mktemp("runs"))
    with wb.open(tiny_config, weights="random", store=store, max_new_tokens=12,
                 stop_at_eos=False) as opened:
        yield opened


def streaming(session: Session, **changes: object) -> wb.Run:
    """A long run that has begun to emit tokens."""
    run = session.run("def f(", **{"limits.max_new_tokens": LONG, **changes})
    deadline = time.monotonic() + 60
    while not any(isinstance(e, Token) for e in run.events):
        assert time.monotonic() < deadline, f"no token: {run.status} {run.error}"
        time.sleep(0.005)
    return run


def test_a_run_is_recorded_and_pinned_as_the_first_baseline(session: Session) -> None:
    run = session.run("def f(", wait=True)
    assert run.status == "done"
    assert run.text
    assert run.metrics["new_tokens"].value == 12
    assert session.pinned is run
    assert session.state == "idle"
    assert session.store.open(run.id).text == run.text


def test_run_returns_at_once_and_events_arrive_in_order(session: Session) -> None:
    before = session.since(0)[1]
    began = time.monotonic()
    run = session.run("def f(")
    assert time.monotonic() - began < 0.3
    assert run.wait(60)
    events, cursor = session.since(before)
    tokens = [e for e in events if isinstance(e, Token)]
    assert [t.index for t in tokens] == list(range(12))
    assert all(t.run == run.id for t in tokens)
    assert [t.t_s for t in tokens] == sorted(t.t_s for t in tokens)
    assert session.since(cursor)[0] == []


def test_changes_for_one_run_do_not_change_the_session(session: Session) -> None:
    before = session.settings
    run = session.run("def f(", wait=True, weights="int8")
    assert run.requested.weights.name() == "int8"
    assert session.settings == before
    assert "int8" in run.effective["weights"]["effective"]


def test_a_forecast_is_judged_by_what_it_said_before_the_run(session: Session) -> None:
    """Afterwards the forecast has learned from the run, and would seem to have known it."""
    before = session.forecast()
    run = session.run("def f(", wait=True)
    promised = session.forecast_of(run)
    assert promised is not None
    assert promised.tpot_s == before.tpot_s
    assert promised.error_of(run.metrics)["tpot_s"] == pytest.approx(
        run.metrics["tpot_s"].value / before.tpot_s.value - 1)
    assert session.forecast().tpot_s != before.tpot_s


def test_a_bad_value_raises_and_changes_nothing(session: Session) -> None:
    before, version = session.settings, session.version
    with pytest.raises(SettingsError, match=r"valid: .*int4"):
        session.set(weights="int5")
    with pytest.raises(SettingsError, match="empty"):
        session.run("")
    assert session.settings == before
    assert session.version == version


def test_views_can_see_that_something_changed(session: Session) -> None:
    version = session.version
    session.set({"sampling.temperature": 0.5})
    assert session.version > version
    assert "0.5" in session.code()
    session.set({"sampling.temperature": 0.0})


def test_cancel_stops_within_three_tenths_of_a_second_and_keeps_the_text(
        session: Session) -> None:
    run = streaming(session)
    began = time.monotonic()
    session.cancel(run)
    while not any(isinstance(e, RunEnded) for e in run.events):
        assert time.monotonic() < began + 5
        time.sleep(0.005)
    stopped = time.monotonic() - began
    assert run.wait(10)
    assert run.status == "cancelled"
    assert 0 < len([e for e in run.events if isinstance(e, Token)]) < LONG
    assert stopped < 0.3, f"generation stopped after {stopped:.2f} s"
    assert session.store.open(run.id).text == run.text


def test_a_waiting_run_can_be_cancelled_and_knows_its_place(session: Session) -> None:
    first = streaming(session)
    second, third = session.run("a"), session.run("b")
    assert [session.queue_position(r) for r in (first, second, third)] == [0, 1, 2]
    session.cancel(second)
    assert second.wait(5)
    assert second.status == "cancelled"
    assert session.queue_position(third) == 1
    session.cancel()
    assert first.wait(10)
    assert third.wait(10)


def test_a_killed_engine_is_one_sentence_and_the_next_run_works(session: Session) -> None:
    finished = session.run("def f(", wait=True)
    run = streaming(session)
    engine = session._dispatcher.engine
    assert engine is not None
    os.kill(engine.pid, signal.SIGKILL)
    assert run.wait(10)
    assert run.status == "failed"
    assert "killed by signal 9" in run.error
    assert "next run starts a new engine" in session.message
    assert session.store.open(finished.id).text == finished.text
    again = session.run("def f(", wait=True)
    assert again.text == finished.text  # greedy, same seed, a new process
    assert session.message == ""


def test_a_failing_run_raises_its_sentence_when_waited_for(session: Session) -> None:
    with pytest.raises(WorkbenchError, match="8192"):
        session.run("def f(", wait=True, max_new_tokens=10_000)


def test_replay_plays_a_recorded_run_without_an_engine(session: Session) -> None:
    run = session.run("def f(", wait=True)
    cursor = session.since(0)[1]
    played = session.replay(run, speed=50)
    deadline = time.monotonic() + 20
    while session.state == "replaying":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    tokens = [e.text for e in session.since(cursor)[0] if isinstance(e, Token)]
    assert "".join(tokens) == run.text
    assert played.status == "done"


def test_what_cannot_be_opened_says_what_to_do(tiny_config: Path, tmp_path: Path) -> None:
    for source, options, message in [
        ("no-such-folder/", {}, "there is no file or folder"),
        (tiny_config, {}, 'weights="random"'),
        (tmp_path, {}, "there is no config.json"),
    ]:
        with pytest.raises(ModelError, match=message) as caught:
            wb.open(source, warm=False, **options)
        assert "\n" not in str(caught.value)


def test_a_closed_session_says_so(tiny_config: Path) -> None:
    opened = wb.open(tiny_config, weights="random", warm=False)
    opened.close()
    with pytest.raises(WorkbenchError, match="closed"):
        opened.run("x")
