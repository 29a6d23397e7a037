"""Stages are exclusive, nest, and sum to the recording."""

from __future__ import annotations

import threading
import time

import pytest

from workbench.runtime.spans import OTHER, recording, span


def test_stages_sum_to_the_whole_and_an_inner_one_is_taken_out() -> None:
    began = time.perf_counter()
    with recording() as spans:
        with span("forward", model=True):
            time.sleep(0.03)
            with span("sampling"):
                time.sleep(0.02)
        time.sleep(0.01)
    wall = time.perf_counter() - began
    stages = spans.stages()
    assert sum(s.seconds for s in stages.values()) == pytest.approx(spans.seconds, abs=1e-9)
    assert spans.seconds == pytest.approx(wall, abs=2e-3)
    assert stages["forward"].seconds >= 0.03
    assert stages["forward"].seconds + stages["sampling"].seconds >= 0.05
    assert stages["sampling"].seconds >= 0.02
    assert stages[OTHER].seconds >= 0.01
    assert (stages["forward"].model, stages["sampling"].model) == (True, False)
    assert stages["forward"].calls == stages["sampling"].calls == 1


def test_a_failure_inside_ends_its_stage() -> None:
    with pytest.raises(RuntimeError), recording() as spans, span("load"):
        raise RuntimeError
    assert sum(s.seconds for s in spans.stages().values()) == pytest.approx(spans.seconds, abs=1e-9)
    with recording() as again, span("x"):
        pass
    assert set(again.stages()) == {OTHER, "x"}


def test_outside_of_a_recording_and_on_other_threads_nothing_is_kept() -> None:
    with span("nobody"):
        pass
    with recording() as spans:
        other = threading.Thread(target=lambda: span("elsewhere").__enter__())
        other.start()
        other.join()
        with recording() as inner, span("inner"):
            pass
        with span("outer"):
            pass
    assert set(spans.stages()) == {OTHER, "outer"}
    assert "inner" in inner.stages()


def test_a_span_costs_microseconds() -> None:
    with recording():
        began = time.process_time()
        for _ in range(10_000):
            with span("x"):
                pass
        assert (time.process_time() - began) / 10_000 < 20e-6
