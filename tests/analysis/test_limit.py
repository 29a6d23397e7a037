"""A step's decomposition: of made events with known sums, and of a real run."""

from __future__ import annotations

import pytest

import workbench
from workbench import events as ev
from workbench.analysis.limit import limit, weights_per_step
from workbench.analysis.roofline import Ceilings
from workbench.settings import Settings

#: 10 GB/s, 1 TFLOP/s.
CEILINGS = Ceilings(10e9, 1e12)


def steps(n: int, forward_s: float, between_s: float) -> list[ev.Event]:
    found: list[ev.Event] = [ev.RunStarted(prompt_tokens=100)]
    for i in range(n):
        start = i * (forward_s + between_s)
        found.append(ev.Phase(phase="decode", start_s=start, end_s=start + forward_s, step=i, rows=1,
                              tokens=1))
    return [*found, ev.StepTime(phase="decode", start_s=0.0, end_s=n * (forward_s + between_s),
                                forwards=n, rows=n, forward_s=n * forward_s)]


def kernel(cls: str, seconds: float, moved: int | None, flops: int | None = 0) -> ev.Kernel:
    return ev.Kernel(window=0, phase="decode", layer=0, name=cls, kind="op", cls=cls, device="cpu",
                     calls=1, total_s=seconds, mean_s=seconds, min_s=seconds, max_s=seconds,
                     floor_s=None, first_token=1, last_token=1, bytes=moved, flops=flops)


def window(wall_s: float) -> ev.KernelWindow:
    return ev.KernelWindow(window=0, start_s=99.0, end_s=99.1, preset="kernels", steps=1,
                           host_events=2, phase="decode", wall_s=wall_s, gap_s=0.0, dispatch_s=0.0)


def test_floor_and_bandwidth_follow_from_the_bytes():
    found = limit(steps(50, 0.008, 0.002), CEILINGS, weights_bytes=50e6, kv_bytes_per_token=1e4)
    assert found is not None
    assert found.step_s == pytest.approx(0.010)
    assert found.host_s == pytest.approx(0.002)
    cached = 1e4 * (100 + 25)
    assert found.floor_s == pytest.approx((50e6 + cached) / 10e9)
    assert found.achieved_bytes_per_s == pytest.approx((50e6 + cached) / 0.010)
    assert found.reached == pytest.approx(0.5 + cached / 10e9 / 0.010)


def test_classes_and_host_sum_to_the_step():
    events = [*steps(50, 0.008, 0.002), window(0.008), kernel("matmul", 0.006, 40_000_000),
              kernel("attention", 0.002, None, None)]
    found = limit(events, CEILINGS, weights_bytes=40e6)
    assert found is not None
    assert sum(r.seconds for r in found.rows) + found.host_s == pytest.approx(found.step_s)
    matmul, attention = found.rows[:2]
    assert (matmul.name, attention.name) == ("matmul", "attention")
    assert matmul.seconds == pytest.approx(0.006, rel=0.02)
    assert matmul.floor_s == pytest.approx(0.004)
    assert matmul.reached == pytest.approx(2 / 3, rel=0.02)
    assert attention.floor_s is None  # nobody knows its bytes
    assert attention.reached is None


def test_without_ceilings_there_is_no_floor_but_a_reason():
    found = limit(steps(5, 0.01, 0.0), Ceilings(None, None), weights_bytes=1e6)
    assert found is not None
    assert found.floor_s is None
    assert found.reached is None
    assert "doctor --measure" in found.why_no_floor


def test_one_step_says_nothing():
    assert limit(steps(1, 0.01, 0.0), CEILINGS) is None


def test_bytes_of_a_step_are_what_the_loader_allocates():
    """Of the bundled model at int8: all packed matrices, and the head that the lookup shares."""
    with workbench.open(inline=True) as session:
        run = session.run("One", wait=True, weights="int8", **{"limits.max_new_tokens": 4})
        held = next(e for e in run.events if isinstance(e, ev.Memory) and e.weights_bytes)
        settings = Settings().with_({"weights": "int8"})
        expected = weights_per_step(settings, session.shape, [])
    assert expected == pytest.approx(held.weights_bytes, rel=0.002)  # vectors of the norms
