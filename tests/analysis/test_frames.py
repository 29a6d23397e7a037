"""Events as tables and back, and the trace."""

from __future__ import annotations

import json

import pytest

from workbench import analysis
from workbench import events as ev
from workbench.analysis import frames
from workbench.analysis.rates import rate_of


def test_wide_and_back(synthetic):
    events = synthetic.plain() + synthetic.kernels() + synthetic.power() + [
        ev.Progress(what="x", done=0.5), ev.Quality(metric="m", value=1.0, done=False)]
    assert frames.from_wide(frames.wide(events)) == events
    assert frames.from_wide(frames.wide([])) == []


def test_an_unknown_type_is_skipped(synthetic):
    import polars as pl

    frame = frames.wide(synthetic.plain(3))
    odd = frame.with_columns(pl.when(pl.col("type") == "memory").then(pl.lit("hologram"))
                             .otherwise(pl.col("type")).alias("type"))
    assert len(frames.from_wide(odd)) == frame.height - 1


@pytest.mark.parametrize("name", ["tokens", "phases", "drafts", "memory", "power", "sensors",
                                  "transfers", "kernels"])
def test_no_events_give_the_same_schema(synthetic, name):
    make = getattr(analysis, name)
    whole = make(synthetic.plain() + synthetic.kernels() + synthetic.power()
                 + synthetic.speculative())
    assert make([]).columns == whole.columns
    assert make([]).is_empty()


def test_bursts(synthetic):
    frame = analysis.tokens(synthetic.speculative(steps=2, accepted=2))
    assert frame["burst"].to_list() == [0, 1, 1, 1, 2, 2, 2]
    assert frame["gap_s"].drop_nulls().to_list() == pytest.approx([0.012, 0.012])


def test_kernel_table(synthetic):
    table = analysis.kernels(synthetic.kernels())
    assert table["total_s"].to_list() == [0.05, 0.008, 0.001]
    assert table["share"].sum() == pytest.approx(1)
    assert table["floor_fraction"].to_list() == [pytest.approx(0.8), 0.5, None]
    merged = analysis.kernels(synthetic.kernels(), by=("kind",))
    assert merged.row(0, named=True)["calls"] == 10
    assert merged.row(0, named=True)["floor_s"] is None


def test_memory_other_is_never_negative():
    frame = analysis.memory([ev.Memory(tier="gpu", total_bytes=10, weights_bytes=30),
                             ev.Memory(tier="gpu", total_bytes=50, weights_bytes=30)])
    assert frame["other_bytes"].to_list() == [0, 20]


def test_rate():
    assert rate_of([]) == []
    assert rate_of([1.0]) == []
    assert rate_of([0.0, 0.1, 0.2])[-1] == (0.2, pytest.approx(10))
    burst = rate_of([0.0, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2])
    assert [round(r) for _, r in burst] == [30, 30]


def test_trace_is_one_that_perfetto_opens(synthetic):
    events = synthetic.plain() + synthetic.speculative() + synthetic.kernels() + synthetic.power()
    events += [ev.Slice(window=0, name="mm", start_s=0.1, duration_s=0.01, track="cpu"),
               ev.Transfer(src="disk", dst="ram", bytes=5, start_s=0.0, end_s=0.1),
               ev.Note(text="hello")]
    trace = json.loads(json.dumps(analysis.chrome_trace(events)))
    rows = trace["traceEvents"]
    assert {r["ph"] for r in rows} == {"M", "X", "i", "C"}
    named = {(r["pid"], r["tid"]) for r in rows if r["name"] == "thread_name"}
    for r in rows:
        if r["ph"] != "M":
            assert r["ts"] >= 0
        if r["ph"] == "X":
            assert r["dur"] >= 0
        if r["ph"] in "Xi":
            assert (r["pid"], r["tid"]) in named
        if r["ph"] == "C":
            assert r["args"]
            assert all(isinstance(v, int | float) for v in r["args"].values())
    tracks = {r["args"]["name"] for r in rows if r["name"] == "thread_name"}
    assert {"phases", "tokens", "drafts", "cpu", "disk to ram"} <= tracks
    times = [r["ts"] for r in rows if r["ph"] != "M"]
    assert times == sorted(times)
