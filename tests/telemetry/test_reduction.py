"""Kernel -> operator -> module -> layer, gaps, device kernels across launches, records of own kernels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from workbench.events import Event, Kernel, KernelWindow
from workbench.telemetry.classify import class_in, kernel_class
from workbench.telemetry.floors import Floors
from workbench.telemetry.records import OpRecord, reduce_records
from workbench.telemetry.reduction import Key, Raw, peak_bytes, reduce, union_of


def raw(name: str, start: float, duration: float, device: bool = False, correlation: int = 0,
        thread: int = 1) -> Raw:
    return Raw(name, start, duration, device, thread, correlation)


MODULES = {0: (-1, "model.layers.0.mlp.up_proj"), 1: (1, "model.layers.1.self_attn")}


def test_an_operator_belongs_to_the_innermost_module_and_its_layer() -> None:
    events = [raw("workbench.layer.0", 0, 10), raw("workbench.module.0", 1, 4), raw("aten::linear", 2, 2),
              raw("aten::mm", 2.5, 1), raw("aten::add", 6, 1), raw("workbench.layer.1", 10, 10),
              raw("workbench.module.1", 11, 5), raw("aten::mm", 12, 3)]
    rows = reduce(events, 0, MODULES, wall_s=20.0).rows
    assert {(k.layer, k.module, k.name): round(r.total_s, 9) for k, r in rows.items()} == {
        (0, "model.layers.0.mlp.up_proj", "aten::linear"): 1.0,
        (0, "model.layers.0.mlp.up_proj", "aten::mm"): 1.0,
        (0, "", "aten::add"): 1.0,
        (1, "model.layers.1.self_attn", "aten::mm"): 3.0}


def test_what_no_operator_covers_is_the_gap_and_all_of_it_sums_to_the_forward() -> None:
    events = [raw("workbench.layer.0", 0, 10), raw("aten::mm", 1, 3), raw("aten::add", 6, 1)]
    found = reduce(events, 0, {}, wall_s=12.0)
    assert found.gap_s == pytest.approx(8.0)
    assert found.gap_s + sum(r.total_s for r in found.rows.values()) == pytest.approx(12.0)


def test_on_a_gpu_the_gap_is_where_no_stream_is_busy() -> None:
    events = [raw("aten::mm", 0.0, 1.0), raw("cudaLaunchKernel", 0.5, 0.1, correlation=7),
              raw("gemm", 1.0, 2.0, True, 7), raw("copy", 2.0, 2.0, True, 8),
              raw("gemm", 5.0, 1.0, True, 9)]
    found = reduce(events, 0, {}, wall_s=1.0)
    assert found.wall_s == pytest.approx(6.0)
    assert found.gap_s == pytest.approx(2.0)  # before the first kernel, and from 4 to 5


def test_a_device_kernel_names_the_operator_that_launched_it() -> None:
    events = [raw("workbench.module.1", 0, 4), raw("aten::linear", 1, 2), raw("aten::addmm", 1.2, 1),
              raw("cudaLaunchKernel", 1.5, 0.1, correlation=7), raw("sm90_gemm", 3, 1, True, 7),
              raw("orphan", 5, 1, True, 99)]
    rows = reduce(events, 0, MODULES).rows
    assert rows[Key(1, "model.layers.1.self_attn", "sm90_gemm", "kernel", "gpu", "aten::addmm")].calls == 1
    assert rows[Key(-1, "", "orphan", "kernel", "gpu", "")].calls == 1


@pytest.mark.parametrize(("intervals", "length"), [
    ([], 0.0), ([(0, 1), (2, 3)], 2.0), ([(0, 5), (1, 2), (4, 6)], 6.0), ([(3, 4), (0, 10)], 10.0)])
def test_union(intervals: list[tuple[float, float]], length: float) -> None:
    assert union_of(intervals) == pytest.approx(length)


def test_the_peak_of_allocations_is_the_highest_running_sum() -> None:
    def event(name: str, at: int, n: int) -> Any:
        return SimpleNamespace(name=lambda: name, start_ns=lambda: at, nbytes=lambda: n)

    events = [event("[memory]", 4, -300), event("[memory]", 1, 100), event("aten::mm", 2, 10**9),
              event("[memory]", 3, 300), event("[memory]", 5, 150)]
    assert peak_bytes(events) == 400
    assert peak_bytes([event("aten::mm", 2, 5)]) is None


LINEAR = {"model.layers.0.mlp.up_proj"}


@pytest.mark.parametrize(("name", "module", "cls"), [
    ("aten::_to_copy", "model.layers.0.mlp.up_proj", "dequant"),
    ("aten::mul", "model.layers.0.mlp.up_proj", "dequant"),
    ("aten::mm", "model.layers.0.mlp.up_proj", "matmul"),
    ("aten::mul", "model.layers.0.mlp", "elementwise"),
    ("aten::bmm", "model.layers.0.self_attn", "attention"),
    ("aten::softmax", "model.layers.0.self_attn", "attention"),
    ("aten::softmax", "", "sampling")])
def test_the_module_says_what_an_operator_is_for(name: str, module: str, cls: str) -> None:
    assert class_in(name, module, LINEAR) == cls


# -- kernels that report themselves -------------------------------------------------------------

NAMES = {0: "linear qkv", 1: "decode_attention", 2: "rms_norm", 3: "linear attention output"}
RECORDS = [OpRecord(2, 0, 1_000, 2_000, 100, 10), OpRecord(0, 0, 2_000, 6_000, 4_000, 8_000),
           OpRecord(1, 0, 6_500, 7_500, 500, 900), OpRecord(0, 1, 8_000, 12_000, 4_000, 8_000)]


def test_records_sum_to_the_forward_and_carry_their_bytes() -> None:
    found = reduce_records(RECORDS, NAMES, 13e-6)
    row = found.rows[Key(0, "", "linear qkv", "op", "cpu")]
    assert (row.calls, row.bytes, row.flops) == (1, 4_000, 8_000)
    assert row.total_s == pytest.approx(4e-6)
    busy = sum(r.total_s for r in found.rows.values())
    assert found.wall_s == pytest.approx(13e-6)
    assert busy + found.gap_s == pytest.approx(13e-6)
    assert found.gap_s == pytest.approx(3e-6)
    assert reduce_records([], NAMES, 1.0).rows == {}


@pytest.mark.parametrize(("name", "cls"), [
    ("linear qkv", "matmul"), ("linear attention output", "matmul"), ("decode_attention", "attention"),
    ("rms_norm", "norm"), ("swiglu", "activation"), ("rope and kv write", "elementwise")])
def test_our_kernels_are_classified_by_their_first_word(name: str, cls: str) -> None:
    assert kernel_class(name) == cls


class Source:
    """A recorded ring: every forward gives the same records; counts how it is used."""

    def __init__(self, records: list[OpRecord]) -> None:
        self.records, self.armed, self.open = records, 0, False

    def names(self) -> dict[int, str]:
        return NAMES

    def arm(self) -> None:
        self.armed, self.open = self.armed + 1, True

    def drain(self) -> list[OpRecord]:
        assert self.open
        self.open = False
        return self.records


def looked(source: Source, steps: int, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Steps of 10 ms on a clock of our own."""
    from workbench.telemetry import kernels
    from workbench.telemetry.kernels import KernelWatch

    now = 100.0
    monkeypatch.setattr(kernels, "time", SimpleNamespace(perf_counter=lambda: now))
    events: list[Event] = []
    watch = KernelWatch("light", [], False, Floors(1, 1, 1e9, 1e9), events.append, lambda: now, steps,
                        source=source)
    for step in range(steps):
        watch.before("decode", step, 1)
        now += 0.01
        watch.after("decode", step, 1)
    return events


def test_kernels_that_report_themselves_need_no_profiler_and_bring_their_floors(
        monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(RECORDS)
    events = looked(source, 400, monkeypatch)
    windows = [e for e in events if isinstance(e, KernelWindow)]
    assert windows
    assert len(windows) == source.armed
    assert not source.open
    linear = next(e for e in events if isinstance(e, Kernel) and e.name == "linear qkv" and e.layer == 1)
    assert linear.cls == "matmul"
    assert linear.floor_s == pytest.approx(8_000 / 1e9)  # the FLOPs bind here, at 1 GFLOP/s


def test_a_source_without_records_is_given_up_for_the_profiler(
        monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source([])
    assert not [e for e in looked(source, 50, monkeypatch) if isinstance(e, KernelWindow) and e.host_events]
    assert source.armed == 1


def test_time_between_operators_that_unpack_is_unpacking() -> None:
    from workbench.telemetry.kernels import UNPACKING, _unpacking

    path = "model.layers.0.mlp.up_proj"
    events = [raw("workbench.module.0", 0, 10), raw("aten::mul", 1, 2), raw("aten::mm", 7, 2)]
    found = reduce(events, 0, MODULES, wall_s=12.0)
    assert found.gaps == {(-1, path): pytest.approx(6.0)}
    classes = {k: class_in(k.name, k.module, LINEAR) for k in found.rows}
    before = found.gap_s
    assert before == pytest.approx(8.0)
    _unpacking(found, classes)
    assert classes[Key(-1, path, UNPACKING, "op", "cpu")] == "dequant"
    assert found.gap_s == pytest.approx(2.0)
    assert found.gap_s + sum(r.total_s for r in found.rows.values()) == pytest.approx(12.0)
