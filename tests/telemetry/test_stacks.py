"""The loop's stack is looked at from another thread and names what stands between two forwards."""

from __future__ import annotations

import time

from workbench.events import HostStack, StepTime
from workbench.telemetry.stacks import Stacks
from workbench.telemetry.stepclock import StepClock


def slow_spot(seconds: float) -> None:
    time.sleep(seconds)


def busy_spot(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(1000))


def test_the_function_that_takes_the_time_is_seen_most() -> None:
    events: list[HostStack] = []
    inside = False
    stacks = Stacks(events.append, lambda: 0.0, lambda: inside, period_s=0.002)
    stacks.start()
    for _ in range(8):
        inside = True
        busy_spot(0.02)
        inside = False
        slow_spot(0.08)
    stacks.stop()
    first = max(events, key=lambda e: e.samples)
    assert "slow_spot" in first.where
    assert first.between
    assert first.what == "host"
    assert first.samples > 0.5 * first.of
    assert sum(e.samples for e in events) <= first.of
    # Inside a forward, a function that is neither the model's nor a library's holds it up.
    assert any("busy_spot" in e.where and not e.between and e.what == "stalled" for e in events)


def test_looking_costs_little() -> None:
    stacks = Stacks(lambda event: None, lambda: 0.0, lambda: True)
    began = time.perf_counter()
    stacks.start()
    slow_spot(0.5)
    stacks.stop()
    assert stacks.cost_s < 0.01 * (time.perf_counter() - began)


def test_the_step_clock_leaves_captured_forwards_out() -> None:
    events: list[StepTime] = []
    clock = StepClock(events.append, time.perf_counter, every_s=1e9)
    clock._due_s = float("inf")
    for i in range(5):
        clock.before()
        slow_spot(0.05 if i == 3 else 0.01)
        clock.after("decode", 2, captured=i == 3)
    clock.flush()
    (found,) = events
    assert (found.forwards, found.rows) == (4, 8)
    assert 0.04 <= found.forward_s < 0.2
    assert 0.01 <= found.middle_s < 0.045
    assert clock.middle("decode") == found.middle_s  # the last interval's, until a new one has its own
