"""Kernel windows on a real forward: attribution, self time, bounds, overhead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.events import Event, Kernel, KernelWindow, Slice
from workbench.settings import Settings
from workbench.telemetry.capture import Key, Raw, layer_at, reduce, self_times
from workbench.telemetry.classify import kernel_class


@pytest.fixture(scope="module")
def model(tiny_config: Path) -> Any:
    from workbench.runtime.model import load

    settings = Settings().with_({"model.source": str(tiny_config), "model.weights": "random"})
    return load(settings, lambda event: None)


def watched(model: Any, **changes: Any) -> list[Event]:
    """The events of one run under a monitor."""
    from workbench.telemetry import Monitor

    events: list[Event] = []
    settings = model.settings.with_({"limits.stop_at_eos": False, **changes})
    monitor = Monitor(settings, model, events.append)
    monitor.start()
    try:
        model.generate(["def f("], settings, events.append, lambda: False, monitor)
    finally:
        monitor.stop()
    return events


def test_deep_captures_every_forward_up_to_its_cap(model: Any) -> None:
    events = watched(model, preset="deep", max_new_tokens=6)
    windows = [e for e in events if isinstance(e, KernelWindow)]
    kernels = [e for e in events if isinstance(e, Kernel)]
    assert len(windows) == 6  # one prefill and five decode steps
    assert {k.phase for k in kernels} == {"prefill", "decode"}
    assert {k.layer for k in kernels} == {-1, 0, 1, 2}
    assert {"matmul", "attention"} <= {k.cls for k in kernels}
    assert all(w.overhead_s > 0 and w.host_events > 0 and w.end_s > w.start_s for w in windows)
    for window in windows:
        own = [k for k in kernels if k.window == window.window]
        busy = sum(k.total_s for k in own)
        assert 0 < busy <= window.end_s - window.start_s, "self times cannot exceed the wall time"
    assert all(k.min_s <= k.mean_s <= k.max_s and k.calls > 0 for k in kernels)


def test_slices_are_bounded(model: Any) -> None:
    from workbench.telemetry.kernels import PRESETS

    events = watched(model, preset="light", max_new_tokens=6)
    for window in {e.window for e in events if isinstance(e, Slice)}:
        assert sum(isinstance(e, Slice) and e.window == window for e in events) \
            <= PRESETS["light"].slices


def test_light_stays_within_its_budget(model: Any) -> None:
    """What the decode windows cost, by their own meter, against the time they were spread over."""
    from workbench.events import Phase
    from workbench.telemetry.kernels import PRESETS

    events = watched(model, preset="light", max_new_tokens=400)
    decode = sum(e.end_s - e.start_s for e in events if isinstance(e, Phase) and e.phase == "decode")
    windows = [e for e in events if isinstance(e, KernelWindow)]
    spent = sum(w.overhead_s for w in windows)
    # The last window may cost more than was foreseen; all before it were paid for.
    most = max((w.overhead_s for w in windows), default=0.0)
    assert spent <= PRESETS["light"].budget * decode * 1.5 + most


@pytest.mark.parametrize(("steps", "cost_s", "at_least"), [
    (1000, 0.020, 5), (1000, 0.002, 50), (200, 0.020, 1), (20, 0.020, 0)])
def test_windows_are_spaced_by_what_they_cost(steps: int, cost_s: float, at_least: int,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """10 ms steps on a clock of our own; only the capture is scripted, the schedule is the real one."""
    from types import SimpleNamespace

    from workbench.telemetry import kernels
    from workbench.telemetry.capture import Captured
    from workbench.telemetry.floors import Floors

    now = began = 100.0

    class Scripted:
        def __init__(self, modules: Any, cuda: bool, memory: bool) -> None:
            self.overhead_s, self.reason, self.wall_s = cost_s, "", 0.0

        def start(self) -> None: ...

        def stop(self) -> None: ...

        def read(self, most: int) -> Captured:
            nonlocal now
            now += cost_s
            return Captured()

    monkeypatch.setattr(kernels, "Capture", Scripted)
    monkeypatch.setattr(kernels, "time", SimpleNamespace(perf_counter=lambda: now))
    events: list[Event] = []
    watch = kernels.KernelWatch("light", [], False, Floors(1, 1), events.append, lambda: now, steps)
    for step in range(steps):
        watch.before("decode", step, 1)
        now += 0.010
        watch.after("decode", step, 1)
    windows = [e for e in events if isinstance(e, KernelWindow)]
    assert len(windows) >= at_least
    assert sum(w.overhead_s for w in windows) <= 0.015 * (now - began) + 1e-9


def test_off_emits_no_kernel_events(model: Any) -> None:
    events = watched(model, preset="off", max_new_tokens=6)
    assert not [e for e in events if isinstance(e, Kernel | KernelWindow | Slice)]


def test_a_cancelled_run_leaves_no_profiler_behind(model: Any) -> None:
    from workbench.errors import Cancelled
    from workbench.telemetry import Monitor

    settings = model.settings.with_(preset="deep")
    monitor = Monitor(settings, model, lambda event: None)
    monitor.start()
    try:
        with pytest.raises(Cancelled):
            model.generate(["def f("], settings, lambda event: None, lambda: True, monitor)
    finally:
        monitor.stop()
    assert watched(model, preset="deep", max_new_tokens=3)  # a second profiler can start


def test_a_foreign_profiler_is_a_reason_not_a_failed_run(model: Any) -> None:
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        events = watched(model, preset="deep", max_new_tokens=3)
    # Kernels that report themselves need no profiler, so their windows go on.
    refused = [e for e in events if isinstance(e, KernelWindow) and e.reason]
    assert len(refused) == 1
    assert "close the other one" in refused[0].reason


def test_the_self_test_finds_operators_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    from workbench.telemetry.selftest import self_test

    self_test.cache_clear()
    assert self_test() == ""
    assert "profiler_start" not in capfd.readouterr().err


def raw(name: str, start: float, duration: float, device: bool = False, correlation: int = 0) -> Raw:
    return Raw(name, start, duration, device, 1, correlation)


def test_self_time_excludes_children_and_sums_to_the_whole() -> None:
    events = [raw("outer", 0.0, 10.0), raw("a", 1.0, 3.0), raw("leaf", 1.5, 1.0), raw("b", 5.0, 2.0)]
    times = self_times(events)
    assert [times[id(e)] for e in events] == pytest.approx([5.0, 2.0, 1.0, 2.0])
    assert sum(times.values()) == pytest.approx(10.0)


def test_device_kernels_belong_to_the_layer_that_launched_them() -> None:
    """A kernel runs later than its launch; the correlation id says which layer asked for it."""
    events = [raw("workbench.layer.0", 0.0, 1.0), raw("cudaLaunchKernel", 0.5, 0.1, correlation=7),
              raw("workbench.layer.1", 1.0, 1.0), raw("cudaLaunchKernel", 1.5, 0.1, correlation=8),
              raw("gemm_kernel", 1.2, 0.3, True, 7), raw("gemm_kernel", 1.9, 0.4, True, 8)]
    found = reduce(events, 100)
    assert found.rows[Key(0, "", "gemm_kernel", "kernel", "gpu")].total_s == pytest.approx(0.3)
    assert found.rows[Key(1, "", "gemm_kernel", "kernel", "gpu")].total_s == pytest.approx(0.4)
    assert found.device_events == 2
    assert reduce([], 10).rows == {}


def test_layers_are_found_by_time() -> None:
    layers = [(0.0, 1.0, 0), (2.0, 3.0, 1)]
    assert [layer_at(layers, t) for t in (0.5, 1.5, 2.5, 9.0)] == [0, -1, 1, -1]


@pytest.mark.parametrize(("name", "cls"), [
    ("aten::mm", "matmul"), ("aten::_weight_int4pack_mm_for_cpu", "matmul"),
    ("aten::_weight_int8pack_mm", "matmul"), ("mkldnn::_linear_pointwise", "matmul"),
    ("aten::scaled_dot_product_attention", "attention"), ("aten::silu", "activation"),
    ("aten::_flash_attention_for_cpu", "attention"), ("aten::copy_", "copy"),
    ("aten::argmax", "sampling"), ("aten::embedding", "embedding"), ("aten::mul", "elementwise"),
    ("void cutlass::Kernel<cutlass_80_tensorop_bf16_s16816gemm>", "matmul"),
    ("sm90_xmma_gemm_bf16", "matmul"), ("aten::rsqrt", "norm"), ("aten::view", "shape"), ("aten::t", "shape"),
    ("aten::sum", "reduction"), ("my::thing", "other")])
def test_names_are_classified(name: str, cls: str) -> None:
    assert kernel_class(name) == cls


def test_a_window_costs_little_more_than_reading_it_must(model: Any) -> None:
    """CPU time per event: a regression to building torch's event tree would be ten times this."""
    cost: list[float] = []
    for window in (e for e in watched(model, preset="deep", max_new_tokens=12)
                   if isinstance(e, KernelWindow)):
        cost.append(window.overhead_s / window.host_events)
    assert min(cost) < 60e-6


def test_a_budget_for_one_window_goes_to_the_target_not_the_draft() -> None:
    from workbench.telemetry.floors import Floors
    from workbench.telemetry.kernels import KernelWatch

    watch = KernelWatch("kernels", [], False, Floors(1, 1), lambda event: None, lambda: 0.0, 10_000)
    watch._steps, watch._decoding_since = 100, -1e6
    assert not watch._wanted("draft", 4)
    assert watch._wanted("verify", 5)
    watch._seen.add("verify")
    assert watch._wanted("draft", 4)
